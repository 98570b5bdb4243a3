"""The faults that the tests inject, and what came of each: runs the tests of every row.

    .venv-dev/bin/python benchmarks/faults.py [-o results/faults.json]

Prints a table, keeps it, and exits with 1 where a test failed or none ran. A test that this machine skips is counted as
skipped. Needs all extras, and root to mount a small disk; some minutes on 2 cores.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

CHECKOUT = Path(__file__).resolve().parents[1]
RESULTS = Path(__file__).parent / "results" / "faults.json"


@dataclass(frozen=True)
class Fault:
    """A fault, what is right, and the tests that show it, as file::name below ``tests/``."""

    fault: str
    right: str
    tests: tuple[str, ...]


BATCH, ATOMIC, HEADERS = "unit/cli/test_batches.py", "unit/test_atomic.py", "unit/volumes/test_headers.py"
STORED, BOUNDS, CASES = "unit/volumes/test_stored.py", "unit/bundle/test_bounds.py", "unit/cohort/test_cases.py"
FIELD, FINITE, SCALE = "unit/runtime/test_field.py", "unit/runtime/test_finite.py", "unit/runtime/test_scale.py"
HOSTILE, UNKNOWN = "unit/runtime/test_hostile_files.py", "unit/bench/test_unknown_labels.py"
QUANTIZE, CLI = "integration/test_quantize.py", "unit/cli/test_cli.py"
IN, WHILE = (
    "test_what_may_not_be_read_or_written_is_one_line",
    "test_a_scan_that_is_truncated_while_it_is_read_is_one_line",
)


def _of(file: str, *names: str) -> tuple[str, ...]:
    return tuple(f"{file}::{name}" for name in names)


#: What happens to files and processes while a command runs.
INJECTED = (
    Fault(
        "full disk",
        "one error line for each scan that does not fit; the rest is done, the table is written",
        _of(BATCH, "test_a_full_disk_costs_only_the_scans_that_do_not_fit"),
    ),
    Fault(
        "folder without the right to write",
        "one error line; nothing is left",
        _of(BATCH, IN) + _of(ATOMIC, "test_an_unwritable_folder_is_refused"),
    ),
    Fault("input in a locked folder", "one error line; the rest is done", _of(BATCH, IN)),
    Fault(
        "output folder that vanishes",
        "one error line, or the folder is made again for the next scan",
        _of(BATCH, "test_a_folder_that_vanishes_between_two_scans_is_made_again")
        + _of(ATOMIC, "test_a_folder_that_is_removed_meanwhile_is_one_error"),
    ),
    Fault(
        "limit on the size of files",
        "one error line; the rest is done",
        _of(BATCH, "test_a_limit_on_the_size_of_files_costs_only_the_scans_beyond_it")
        + _of(ATOMIC, "test_a_limit_on_the_size_of_files_is_one_error"),
    ),
    Fault(
        "limit on memory",
        "one error line; the rest is done, and holds no memory of it",
        _of(BATCH, "test_a_scan_beyond_the_memory_is_one_line", "test_a_scan_that_failed_takes_no_memory_from_the_next")
        + _of("unit/runtime/test_memory_error.py", "test_memory_that_runs_out_while_a_stage_runs_is_one_line"),
    ),
    Fault(
        "scan that changes while it is read",
        "one error line; no mask of neither version",
        _of(BATCH, "test_a_scan_that_changes_while_it_is_read_is_refused"),
    ),
    Fault(
        "scan that is truncated while it is read",
        "one error line; the process lives and does the rest",
        _of("unit/cli/test_truncated.py", WHILE)
        + _of(STORED, "test_a_file_that_shrinks_after_it_was_read_does_no_harm"),
    ),
    Fault(
        "two writers of one output",
        "the second is refused, and the output is whole",
        _of(BATCH, "test_two_processes_that_write_one_mask")
        + _of(ATOMIC, "test_the_second_writer_of_one_target_is_refused"),
    ),
    Fault(
        "fault inside this tool",
        "one error line for that scan; the rest is done",
        _of(BATCH, "test_a_fault_of_a_network_costs_one_scan"),
    ),
    Fault(
        "full standard output, closed pipe",
        "one error line; no scan is lost",
        _of(BATCH, "test_a_full_standard_output_is_one_line", "test_a_closed_pipe_is_quiet_and_ends_nothing"),
    ),
    Fault(
        "SIGINT and SIGTERM",
        "what is done is kept, the table is written, --resume does the rest",
        _of(BATCH, "test_an_interrupted_batch_keeps_what_is_done"),
    ),
    Fault(
        "power that fails",
        "content and folder are on the disk before the name",
        _of(ATOMIC, "test_the_content_is_on_the_disk_before_the_name"),
    ),
)

#: What is wrong with an input or asked in a wrong way.
INPUTS = (
    Fault(
        "`.nii.gz` with a wrong checksum or length",
        "refused as damaged",
        _of(
            STORED,
            "test_a_wrong_gzip_checksum_is_refused",
            "test_flipped_bits_are_found_wherever_they_are",
            "test_a_wrong_gzip_length_is_refused",
        ),
    ),
    Fault(
        "scan larger than the network's field",
        "background where the network did not look, and a doubt",
        _of(FIELD, "test_what_a_network_did_not_see_is_background"),
    ),
    Fault(
        "NaN or infinity in a network's scores",
        "an error with their count",
        _of(FINITE, "test_scores_that_are_not_finite_are_an_error_with_their_count"),
    ),
    Fault(
        "`vox_offset` 0 in a single file",
        "byte 352 (544 in NIfTI-2), and a doubt",
        _of(HEADERS, "test_voxels_of_a_single_file_do_not_begin_at_byte_0"),
    ),
    Fault(
        "intensities over 1e18 or under 1e-22",
        "the mask of every other scale",
        _of(SCALE, "test_every_scale_gives_one_mask"),
    ),
    Fault(
        "label map with values that the bundle has not",
        "an error with values and counts; `--ignore-label` leaves them out",
        _of(
            UNKNOWN,
            "test_a_value_that_the_bundle_does_not_know_is_an_error",
            "test_an_ignored_label_is_left_out_and_recorded",
        )
        + _of(
            QUANTIZE,
            "test_bad_input_gives_a_clear_line_and_nothing_written",
            "test_voxels_of_an_ignored_label_are_left_out_and_recorded",
        ),
    ),
    Fault(
        "an output that names an input, also through a link, with `--force`",
        "refused; the input stays as it is",
        _of("unit/cli/test_inputs_are_no_outputs.py", "test_refused_before_anything_runs")
        + _of(ATOMIC, "test_an_input_is_never_an_output")
        + _of(BATCH, "test_the_masked_scan_is_no_input_either"),
    ),
    Fault(
        "error or kill between two renames of `--force`",
        "the old or the new output, always",
        _of(
            ATOMIC,
            "test_an_error_between_two_renames_keeps_the_old_folder",
            "test_a_process_killed_between_two_renames_has_them_undone_by_the_next",
            "test_a_folder_that_is_replaced_is_never_missing",
        ),
    ),
    Fault(
        "leftovers of killed runs",
        "removed by the next run; those of a living process or another host stay",
        _of(
            ATOMIC,
            "test_what_a_killed_process_left_is_removed_and_what_a_living_one_has_is_kept",
            "test_what_another_host_left_is_removed_only_when_its_lock_is_free",
            "test_without_locks_the_name_tells_whether_its_process_has_ended",
        ),
    ),
    Fault(
        "`--max-ram 1GB` and a scan of 1024×1024×600",
        "refused by its header",
        _of("unit/runtime/test_memory.py", "test_a_scan_beyond_the_bound_is_refused_by_its_header"),
    ),
    Fault(
        "gzip bomb, header of many voxels",
        "refused before memory is taken",
        _of(
            STORED,
            "test_a_gzip_bomb_is_refused_before_it_is_unpacked",
            "test_a_stream_that_goes_on_for_ever_is_refused_early",
        )
        + _of("unit/volumes/test_volume.py", "test_a_false_claim_is_refused_before_anything_is_allocated"),
    ),
    Fault(
        "file name that is not UTF-8",
        "it stands in the table, in JSON and in the ledger",
        _of(BATCH, "test_a_name_that_is_not_utf8_is_in_the_table_in_json_and_in_the_ledger"),
    ),
    Fault(
        "masks that are there already",
        "`--resume` skips what is done, `--force` replaces, otherwise refused at once",
        _of(BATCH, "test_resume_skips_what_agrees_and_does_the_rest"),
    ),
    Fault(
        "this tool's own masks among the scans",
        "skipped with a note, unless nothing else is named",
        _of(BATCH, "test_masks_of_this_tool_are_skipped_unless_they_are_all_there_is"),
    ),
    Fault(
        "`xyzt_units` that name no units",
        "millimetres, and a doubt",
        _of(
            HEADERS,
            "test_units_that_the_format_does_not_define_are_millimetres_with_a_doubt",
            "test_a_spatial_unit_holds_whatever_the_other_bits_are",
        ),
    ),
    Fault(
        "quaternion over 1",
        "rounded if a little over; otherwise the sform, and a doubt",
        _of(
            HEADERS, "test_a_quaternion_a_little_over_one_is_rounded", "test_a_quaternion_far_over_one_leaves_the_sform"
        ),
    ),
    Fault(
        "pixdim of NaN or 0",
        "refused by its field, unless the sform has the spacing",
        _of(HEADERS, "test_a_spacing_that_is_none_is_refused_by_its_field_unless_the_sform_has_it"),
    ),
    Fault(
        "sform of zeros, or singular",
        "the qform, and a doubt",
        _of(HEADERS, "test_a_broken_sform_leaves_the_qform", "test_both_forms_broken_are_both_named"),
    ),
    Fault(
        "sform and qform that disagree",
        "a doubt with the figures of both",
        _of(HEADERS, "test_forms_that_disagree_are_doubted_with_the_figures_of_both"),
    ),
    Fault(
        "labels that are nearly whole numbers",
        "rounded within 0.001",
        _of(CASES, "test_labels_that_are_nearly_whole_numbers_are_rounded"),
    ),
    Fault(
        "two grids that differ",
        "what differs, and by how many millimetres",
        _of(HEADERS, "test_the_difference_of_two_grids_is_said_in_words") + _of(CASES, "test_bad_labels_are_refused"),
    ),
    Fault(
        "gzip stream that is truncated or has bytes behind it",
        "refused with true counts",
        _of(
            STORED,
            "test_a_truncated_gzip_stream_is_refused_with_what_it_holds",
            "test_bytes_behind_a_gzip_stream_are_counted",
        ),
    ),
    Fault(
        "bundle that says or holds too much, or a thing twice",
        "refused at load in one line, within a second",
        _of(
            BOUNDS,
            "test_a_manifest_that_says_too_much_or_a_thing_twice_is_refused",
            "test_a_manifest_that_is_no_plain_json_is_refused",
        )
        + _of(
            HOSTILE,
            "test_a_network_that_is_damaged_is_refused_at_load",
            "test_a_reference_case_that_is_damaged_or_hostile_is_refused",
        ),
    ),
    Fault(
        "files in a bundle that no manifest lists, links",
        "refused by name; `reports/run.json`, `manifest.sig` and hidden files are no error",
        _of(
            BOUNDS,
            "test_what_no_manifest_lists_is_refused_by_name",
            "test_run_times_signatures_and_hidden_files_are_neither_needed_nor_trusted",
        ),
    ),
    Fault(
        "bundles of earlier versions, INT8 too",
        "they open, verify and give the mask that they gave",
        _of(
            "unit/test_earlier_versions.py",
            "test_a_bundle_opens_verifies_and_reads_what_it_writes",
            "test_a_bundle_gives_the_mask_that_it_gave",
        ),
    ),
    Fault(
        "`-o` with a suffix that is not written",
        "refused",
        _of(CLI, "test_bad_words_give_one_line_and_nothing_written"),
    ),
    Fault(
        "names in capitals, blanks before a name in a table",
        "read",
        _of(BATCH, "test_a_name_in_capitals_is_read")
        + _of(CASES, "test_blanks_around_a_name_belong_to_it_where_a_file_has_them"),
    ),
    Fault(
        "two exports of one recipe",
        "one digest",
        _of("integration/test_same_digest.py", "test_two_exports_of_one_source_differ_in_their_seconds_only"),
    ),
)


class Outcomes:
    """A plugin of pytest that counts what came out of each test function."""

    def __init__(self) -> None:
        self.of: dict[str, Counter[str]] = {}

    def pytest_runtest_logreport(self, report: Any) -> None:
        """Count the call of a test, or what kept it from its call."""
        if report.when == "call" or report.outcome != "passed":
            file, *names = report.nodeid.split("::")
            key = f"{file.removeprefix('tests/')}::{names[-1].partition('[')[0]}"
            self.of.setdefault(key, Counter())[report.outcome] += 1


def run(tests: set[str]) -> dict[str, Counter[str]]:
    """Run tests, given as file::name below ``tests/``; outcomes of each."""
    outcomes = Outcomes()
    files = sorted({str(CHECKOUT / "tests" / test.partition("::")[0]) for test in tests})
    names = " or ".join(sorted({test.partition("::")[2] for test in tests}))
    pytest.main(["-q", "-p", "no:cacheprovider", *files, "-k", names], plugins=[outcomes])
    return {test: outcomes.of.get(test, Counter()) for test in tests}


def main() -> None:
    """Run all, print a table, keep it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, default=RESULTS)
    given = parser.parse_args()
    outcomes = run({test for fault in (*INJECTED, *INPUTS) for test in fault.tests})
    for test, counts in sorted(outcomes.items()):
        print(f"{test}: {dict(counts)}")
    kept = {test: dict(sorted(counts.items())) for test, counts in sorted(outcomes.items())}
    given.output.write_text(json.dumps({"schema_version": 1, "tests": kept}, indent=1) + "\n", encoding="utf-8")
    sys.exit(any(counts["failed"] or not counts for counts in outcomes.values()))


if __name__ == "__main__":
    main()
