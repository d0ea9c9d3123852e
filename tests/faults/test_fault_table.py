"""The fault table: each row, and the tests that show it. They are named here once; this page keeps the names true."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from fault_kinds import KINDS

TESTS = Path(__file__).parents[1]

#: What happens to a pipeline, and where it is shown: MODULE::TEST.
ROWS: dict[str, list[str]] = {
    "a step raises: plain, custom __init__, unpicklable, SystemExit, KeyboardInterrupt, GeneratorExit, a huge one": [
        "test_fault_matrix::test_r4_fault_of_a_step_is_told_in_full",
        "test_rules::test_r4_step_that_raises_reaches_the_caller_as_itself",
        "test_rules::test_r4_exception_whose_class_takes_other_arguments_arrives_as_itself",
        "test_rules::test_r4_exception_that_cannot_be_carried_arrives_as_text",
        "test_carried_exception::test_exception_whose_class_cannot_be_had_arrives_as_text",
        "test_rules::test_r4_odd_exceptions_arrive_in_some_form",
        "test_faults::test_r4_exception_that_cannot_take_a_note_arrives_with_its_cause",
        "test_faults::test_r4_stop_iteration_does_not_pass_for_the_end",
        "test_exits::test_r4_exit_is_a_failure_that_names_the_step",
    ],
    "a process ends: os._exit(0), os._exit(3), SIGKILL, SIGSEGV, SIGABRT, SIGBUS, SIGTERM": [
        "test_fault_matrix::test_r4_fault_of_a_step_is_told_in_full",
        "test_rules::test_r4_process_that_ends_is_named",
        "test_rules::test_r4_any_process_killed_at_any_moment",
        "test_inactivity::test_r4_a_crash_is_shown_with_the_stack_of_the_dead_process",
        "core/test_kill_points::test_r4_death_at_any_step_of_the_protocol_is_named",
    ],
    "memory runs out": [
        "test_faults::test_r4_step_that_has_used_all_memory_can_still_tell_of_it",
        "test_inactivity::test_the_kernels_counters_are_read_wherever_they_are",
        "test_inactivity::test_r4_a_killed_process_is_not_said_to_have_lacked_memory_when_the_kernel_does_not_say_so",
    ],
    "SIGSTOP, an endless loop in Python or in C, a lock held for ever": [
        "test_fault_rows::test_a_step_that_hangs_at_any_moment_is_named",
        "test_inactivity::test_a_step_that_hangs_is_named_with_its_item_and_its_stack",
    ],
    "one deadline for all (R8)": [
        "test_fault_rows::test_r8_there_is_one_deadline_for_all",
        "test_rules::test_r8_step_that_does_not_stop_is_killed",
        "test_execute::test_r8_shutdown_timeout_of_zero_kills_at_once",
    ],
    "the caller gets SIGINT or SIGTERM": [
        "test_interrupted_caller::test_r8_ctrl_c_prints_one_traceback_the_callers",
        "test_interrupted_caller::test_r8_ctrl_c_while_processes_are_started_prints_one_traceback",
        "test_interrupted_caller::test_r8_handler_of_the_caller_that_raises_reaches_its_except",
        "test_interrupted_caller::test_r8_handler_of_the_caller_that_returns_leaves_the_run_alone",
        "test_interrupted_caller::test_r8_sigterm_that_the_caller_answers_by_its_exit_closes_the_steps",
        "test_told_to_end::test_r8_sigterm_closes_the_steps_and_then_kills",
        "test_told_to_end::test_r8_second_sigterm_kills_at_once",
    ],
    "the caller is killed": [
        "test_killed_caller::test_r7_whatever_steps_do_they_go_with_the_caller",
        "test_killed_caller::test_r7_processes_that_still_import_the_main_script_go_with_the_caller",
        "test_killed_caller::test_r7_processes_that_are_being_started_go_with_the_caller",
        "test_killed_caller::test_r7_all_are_gone_within_two_seconds",
        "test_rules::test_r7_children_go_when_the_caller_is_killed",
    ],
    "the sink stops early": [
        "test_rules::test_r3_sink_that_stops_early_is_named",
        "test_rules::test_r3_step_that_takes_nothing_of_something_is_named",
    ],
    "the iterator is dropped, closed, raised through, or left open at the interpreter's exit": [
        "test_execute::test_results_of_an_endless_pipeline_left_by_with",
        "test_execute::test_results_of_an_endless_pipeline_left_by_break_and_garbage_collection",
        "test_execute::test_exception_raised_through_results_passes_and_stops_the_pipeline",
        "test_execute::test_results_still_open_at_the_interpreters_exit",
        "test_faults::test_results_closed_by_another_thread_end_quietly",
    ],
    "several fail at once": [
        "test_fault_matrix::test_r4_failures_of_several_replicas_are_all_listed_first_one_raised",
        "test_rules::test_r4_several_failures_are_all_listed",
    ],
    "a message cannot be pickled or unpickled, is too large, or larger than memory": [
        "test_fault_rows::test_r4_message_larger_than_memory_is_refused_and_nothing_of_it_is_seen",
        "test_fault_rows::test_r4_message_for_whose_pickling_memory_lacks_is_told_as_that",
        "test_fault_rows::test_r4_nothing_partial_is_seen_of_a_message_that_cannot_be_pickled",
        "test_failed_item::test_an_item_that_was_never_unpickled_is_not_touched",
        "test_execute::test_max_message_size_refuses_larger_messages",
    ],
    "constants or a function cannot be pickled": [
        "test_execute::test_unpicklable_constants_and_functions_are_all_named_before_anything_starts",
    ],
    "there is no main guard": [
        "test_execute::test_script_without_the_guard_gets_one_error_that_shows_it",
        "test_execute::test_script_without_the_guard_that_another_process_imports_gets_the_error_there",
    ],
    "threads in the caller, execute from a thread, inside a step, in a daemonic process, in a notebook, under xdist": [
        "test_fault_rows::test_r7_fork_while_other_threads_of_the_caller_hold_locks",
        "test_execute::test_called_from_a_thread",
        "test_execute::test_failure_reaches_a_thread",
        "test_execute::test_nested_in_a_step",
        "test_execute::test_nested_pipeline_goes_with_the_one_around_it",
        "test_execute::test_daemonic_process_gets_a_clear_error",
        "test_execute::test_notebook_with_everything_defined_in_cells",
        "test_fault_rows::test_pipelines_run_in_the_workers_of_pytest_xdist",
    ],
    "two pipelines at once, twenty at once, a thousand in a row": [
        "test_in_a_row::test_r7_a_hundred_pipelines_in_a_row_leave_the_caller_as_it_was",
        "test_in_a_row::test_r7_a_thousand_pipelines_in_a_row_leave_the_caller_as_it_was",
        "test_execute::test_two_pipelines_at_once_are_independent",
        "test_execute::test_failure_of_one_pipeline_leaves_the_other_alone",
        "test_fault_rows::test_r7_twenty_pipelines_at_once_in_twenty_threads",
    ],
    "10 M messages, 128 replicas, 50 steps, messages of every size, a small /dev/shm": [
        "test_delivery::test_r6_each_of_ten_million_messages_arrives_once_in_its_producers_order",
        "test_fault_rows::test_r6_one_hundred_and_twenty_eight_replicas",
        "test_fault_rows::test_r4_one_of_many_replicas_fails",
        "test_fault_rows::test_r6_fifty_steps",
        "test_fault_rows::test_r4_last_but_one_of_fifty_steps_dies",
        "test_fault_rows::test_r6_messages_of_nothing_to_a_hundred_megabytes_arrive",
        "test_environment::test_half_a_gigabyte_passes_whatever_dev_shm_is",
    ],
    "standard output is flooded": [
        "test_fault_rows::test_r7_standard_output_flooded_by_a_step_is_no_deadlock",
        "test_fault_rows::test_r8_step_that_is_blocked_by_a_full_pipe_does_not_hold_up_the_end",
    ],
    "a step has children of its own": [
        "test_faults::test_r7_children_of_a_step_go_with_it",
        "test_faults::test_r6_fork_of_a_step_cannot_use_its_stream",
        "test_forks::test_r6_fork_of_a_step_ends_with_its_own_exit_code",
        "test_forks::test_r6_fork_that_reads_or_yields_gets_an_error_and_the_step_nothing_less",
        "test_forks::test_r6_what_a_step_uses_that_forks_works_as_in_a_plain_program",
        "test_rules::test_r7_children_of_a_failed_step_go_with_it",
    ],
}


def names_of_tests(module: str) -> set[str]:
    (path,) = TESTS.glob(f"**/{module}.py")
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")}


def test_every_kind_of_fault_is_in_a_row_and_in_some_tests() -> None:
    for kind in KINDS.values():
        assert kind.row in ROWS, kind.name
        assert kind.shown_in, kind.name


@pytest.mark.parametrize("row", ROWS)
def test_row_of_the_fault_table_has_the_tests_that_it_names(row: str) -> None:
    for name in ROWS[row]:
        module, _, test = name.partition("::")
        assert test in names_of_tests(module), name
