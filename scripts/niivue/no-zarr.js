// In place of zarrita, which reads volumes from a network: the page has its volumes in itself.
export {};
