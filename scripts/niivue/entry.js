// What the page of `lowres-seg view` takes of NiiVue.
export { Niivue, SHOW_RENDER, SLICE_TYPE } from "@niivue/niivue";
