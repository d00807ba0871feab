"""What runs on the node, under the signals that Slurm sends, with stand-ins for Slurm's clients."""

import contextlib
import os
import re
import resource
import signal
import socket
import sys
import time
import uuid
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from cluster import wait_for
from fake_slurm import FakeSlurm
from snakemake_executor_plugin_submitit.node import processes
from snakemake_executor_plugin_submitit.node.command import JobCommand
from snakemake_executor_plugin_submitit.node.launch import command as launch
from snakemake_executor_plugin_submitit.records.attempts import Attempts

# Says that it runs, and saves its state when asked to.
SAVING = (
    "trap 'sleep 0.3; echo saved >> journal; exit 9' TERM; echo start >> journal; for i in {1..300}; do sleep 0.1; done"
)
STUBBORN = "trap '' TERM; echo start >> journal; setsid bash -c 'sleep 60' & sleep 60"


class Attempt:
    """An attempt as a process of its own; forked, because starting a Python takes a second."""

    def __init__(self, command, environment, folder, stdout=1):
        self.output, self.code = folder / f"output-{time.monotonic_ns()}", None
        self.pid = os.fork()
        if self.pid:
            return
        code = 70
        try:
            os.chdir(folder)
            os.environ.update(environment)
            os.dup2(stdout, 1)
            sys.stdout = self.output.open("w")
            code = command() and 0
        except SystemExit as end:
            code = end.code
        finally:
            os._exit(code)

    def wait(self, seconds):
        def ended():
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            return pid and [os.waitstatus_to_exitcode(status)]

        if self.code is None:
            (self.code,) = wait_for(ended, "the attempt ends", seconds)
        return self.code

    def send_signal(self, number):
        os.kill(self.pid, number)

    def kill(self):
        with contextlib.suppress(ProcessLookupError, ChildProcessError):
            if self.code is None:
                self.send_signal(signal.SIGKILL)
                self.wait(20)


class Node:
    """A node with one array element on it."""

    def __init__(self, folder):
        self.folder, self.slurm = folder, FakeSlurm(folder)
        self.environment = {
            "PATH": self.slurm.path,
            "SUBMITIT_EXECUTOR": "slurm",
            "SUBMITIT_FOLDER": str(folder),
            "SLURM_JOB_ID": "9",
            "SLURM_ARRAY_JOB_ID": "7",
            "SLURM_ARRAY_TASK_ID": "1",
        }
        self.started, self.stdout = [], 1
        # Processes are found by it on the whole machine, where the same tests may run beside these.
        self.submission = f"sub-{uuid.uuid4().hex[:12]}"

    def start(self, line, **changes):
        settings = {"runtime_minutes": 60, "kill_wait_seconds": 4, "outputs": [], **changes}
        command = JobCommand(line, "train mar", "key", self.submission, str(self.folder), **settings)
        self.started.append(Attempt(command, self.environment, self.folder, self.stdout))
        return self.started[-1]

    def start_and_signal(self, line, *numbers, **changes):
        """Exit code of an attempt that gets these signals as soon as its command runs."""
        process = self.start(line, **changes)
        self.wait_for_start()
        for number in numbers:
            process.send_signal(number)
        return process.wait(20)

    def wait_for_start(self):
        wait_for(lambda: "start" in self.journal(), "the command runs", 20)

    def members(self):
        """Living processes of the first attempt's command."""
        return processes.members(f"{self.submission}-1")

    def journal(self):
        file = self.folder / "journal"
        return file.read_text().split() if file.exists() else []

    def attempts(self):
        return Attempts(self.folder, "key").all()

    def says(self, minutes_left, preempted=False):
        """What `scontrol show job` answers."""
        now = datetime.now().replace(microsecond=0)
        end, start = now + timedelta(minutes=minutes_left), now - timedelta(minutes=1)
        when = now.isoformat() if preempted else "None"
        text = f"JobId=9 StartTime={start.isoformat()} EndTime={end.isoformat()} PreemptTime={when}"
        other = f"JobId=10 StartTime={start.isoformat()} EndTime=2038-01-01T00:00:00 PreemptTime=None"
        self.slurm.answer("scontrol---oneliner", f"{text}\n{other}\n")

    def requeues(self):
        return [call for call in self.slurm.calls("scontrol") if "requeue" in call]


@pytest.fixture
def node(tmp_path):
    node = Node(tmp_path)
    yield node
    for attempt in node.started:
        attempt.kill()
    for number in range(1, 4):
        processes.kill(f"{node.submission}-{number}")


def test_a_command_that_succeeds_is_recorded(node):
    assert node.start("echo hello > made", gpus=2).wait(20) == 0

    (attempt,) = node.attempts()
    assert (attempt.ended_by, attempt.exit_code, attempt.job, attempt.gpus) == ("finished", 0, "7_1", 2)
    assert (node.folder / "made").read_text() == "hello\n"


def test_outputs_are_marked_again_until_a_driver_accepts_them(node):
    marks = [node.folder / "incomplete" / name for name in ("@one", "two")]
    assert node.start("exit 5", markers=[str(path) for path in marks]).wait(20) == 5
    assert not any(path.exists() for path in marks)

    assert node.start("true", markers=[str(path) for path in marks]).wait(20) == 0

    assert [path.stat().st_mtime for path in marks] == pytest.approx([node.attempts()[-1].began] * 2)


def test_a_command_that_fails_gives_the_job_its_code(node):
    assert node.start("exit 5").wait(20) == 5

    assert [(a.ended_by, a.exit_code) for a in node.attempts()] == [("failed", 5)]
    assert node.requeues() == []


@pytest.mark.parametrize("line, code", [("true", 1), ("exit 5", 5)])
def test_what_a_command_did_not_make_or_did_not_find_is_recorded(node, line, code):
    old = node.folder / "old"
    old.touch()

    process = node.start(
        line,
        outputs=[str(old)],
        inputs=[str(node.folder / "in")],
        markers=[str(node.folder / "mark")],
        cached_seconds=0,
    )

    assert process.wait(20) == code
    (attempt,) = node.attempts()
    assert (attempt.ended_by, attempt.exit_code) == ("failed", code if line != "true" else None)
    assert attempt.fault.startswith(f"Inputs are missing on the node: {node.folder / 'in'}.")
    assert attempt.fault in process.output.read_text()
    assert not (node.folder / "mark").exists()


def test_an_old_output_is_no_success(node):
    (node.folder / "old").touch()

    assert node.start("true", outputs=[str(node.folder / "old")], cached_seconds=0).wait(20) == 1

    assert node.attempts()[0].fault == f"The command ended with exit code 0, but did not make {node.folder / 'old'}."


def test_a_process_that_was_killed_further_down_is_recorded(node):
    line = "echo \"Command 'kill -9' died with <Signals.SIGKILL: 9>.\"; exit 1"
    with (node.folder / "log").open("a") as log:
        log.write("of an earlier attempt: CUDA out of memory")
        log.flush()
        node.stdout = log.fileno()
        assert node.start(line).wait(20) == 1

    assert "using more memory" in node.attempts()[0].fault


def test_a_preempted_command_saves_and_the_job_requeues_itself(node):
    node.says(minutes_left=1, preempted=True)

    assert node.start_and_signal(SAVING, signal.SIGUSR2) == 1

    assert node.journal() == ["start", "saved"]
    assert [a.ended_by for a in node.attempts()] == ["preempted"]
    assert node.requeues() == ["scontrol requeue 7_1"]


def test_an_array_element_asks_about_itself_and_stops_no_other(node):
    node.environment |= {"SLURM_JOB_ID": "7", "SLURM_JOB_NUM_NODES": "2"}

    node.start_and_signal("trap 'exit 9' TERM; echo start >> journal; sleep 3 & wait", signal.SIGUSR2)

    assert [call for call in node.slurm.calls("scontrol") if "show" in call] == ["scontrol --oneliner show job 7_1"]
    assert node.slurm.calls("scancel") == ["scancel --signal=TERM 7_1"]


def test_after_sigterm_a_command_saves_and_the_rest_is_left_to_slurm(node):
    assert node.start_and_signal(SAVING, signal.SIGCONT, signal.SIGTERM) == 1

    assert node.journal() == ["start", "saved"]
    assert [(a.ended_by, a.gave_up) for a in node.attempts()] == [("terminated", False)]
    assert node.requeues() == []


def test_near_the_time_limit_a_job_that_resumes_is_requeued(node):
    node.says(minutes_left=0.2)

    assert node.start_and_signal(SAVING, signal.SIGUSR2, runtime_minutes=1, max_timeouts=1) == 1

    assert [(a.ended_by, a.gave_up) for a in node.attempts()] == [("time limit", False)]
    assert node.requeues() == ["scontrol requeue 7_1"]


def test_the_budget_for_time_limits_ends(node):
    node.says(minutes_left=0.2)
    records = Attempts(node.folder, "key")
    records.update(records.begin(node.submission, "7_1", 0), ended_by="time limit")

    assert node.start_and_signal(SAVING, signal.SIGUSR2, runtime_minutes=1, max_timeouts=1) == 1

    assert node.journal() == ["start", "saved"]
    assert [(a.ended_by, a.gave_up) for a in node.attempts()] == [("time limit", False), ("time limit", True)]
    assert node.requeues() == []


def test_a_job_that_cannot_resume_uses_its_time_to_the_end(node):
    node.says(minutes_left=0.2)
    line = "trap 'echo asked >> journal' TERM; echo start >> journal; sleep 2"

    assert node.start_and_signal(line, signal.SIGUSR2, runtime_minutes=1) == 0

    assert node.journal() == ["start"]


def test_a_job_that_is_interrupted_too_often_stops(node):
    records = Attempts(node.folder, "key")
    for _ in range(2):
        records.begin(node.submission, "7_1", 0)

    assert node.start("echo start >> journal", max_preemptions=1).wait(20) == 1

    assert node.journal() == []
    assert node.attempts()[-1].gave_up


def test_what_ignores_sigterm_is_gone_before_the_requeue(node):
    node.says(minutes_left=0.08, preempted=True)

    assert node.start_and_signal(STUBBORN, signal.SIGUSR2) == 1

    assert node.members() == []
    assert len(node.requeues()) == 1


DAEMON = "setsid env -i bash -c 'echo $$ > daemon; exec sleep 300' & until [ -s daemon ]; do sleep 0.1; done; "


def daemon_lives(node):
    return Path("/proc", (node.folder / "daemon").read_text().strip()).exists()


def test_a_daemon_without_the_mark_ends_with_its_job(node):
    assert node.start(DAEMON).wait(20) == 0

    assert not daemon_lives(node)


def test_a_daemon_without_the_mark_ends_with_a_killed_attempt(node):
    first = node.start(f"{DAEMON} echo start >> journal; sleep 60")
    node.wait_for_start()
    first.kill()

    wait_for(lambda: not daemon_lives(node), "the daemon ends", 20)


def test_a_killed_guard_costs_the_attempt_but_leaves_no_process(node):
    node.start("ps -o ppid= -p $$ > guard; echo start >> journal; sleep 60")
    node.wait_for_start()
    os.kill(int((node.folder / "guard").read_text()), signal.SIGKILL)

    assert node.started[0].wait(20) == 137
    assert node.members() == []


@pytest.mark.parametrize(
    "config, length", [("text=" + "x" * 140_000, 140_000), ("text=it " + " ".join(f"k{i}=v" for i in range(30_000)), 2)]
)
def test_a_command_line_and_each_of_its_arguments_may_be_long(node, config, length):
    (node.folder / "Snakefile").write_text(
        "rule all:\n    output: 'made'\n    run: open(output[0], 'w').write(str(len(config['text'])))"
    )

    line = f"{sys.executable} -m snakemake --cores 1 --force-use-threads --config {config}"

    assert node.start(line).wait(60) == 0
    assert (node.folder / "made").read_text() == str(length)


def test_no_shell_is_between_a_job_and_its_command_to_die_of_a_signal_first(tmp_path):
    command = processes.Command(f"{sys.executable} -c 'import time; time.sleep(60)'", uuid.uuid4().hex, os.environ)
    try:
        own = Path(f"/proc/{command.process}/cmdline")
        wait_for(lambda: own.read_bytes().startswith(sys.executable.encode()), "the command runs", 20)
    finally:
        command.close()


def test_a_command_that_hears_of_a_signal_first_was_told_to_stop(node):
    attempt = node.start("echo start >> journal; exec sleep 60")
    node.wait_for_start()
    attempt.send_signal(signal.SIGSTOP)
    for process in node.members():
        os.kill(process, signal.SIGTERM)
    wait_for(lambda: not node.members(), "the command ends", 20)
    for number in (signal.SIGTERM, signal.SIGCONT):
        attempt.send_signal(number)

    assert attempt.wait(20) == 1
    assert [a.ended_by for a in node.attempts()] == ["terminated"]


def test_a_killed_attempt_leaves_no_process_and_then_no_lease(node):
    first = node.start(STUBBORN)
    node.wait_for_start()
    assert len(node.members()) >= 3
    first.kill()

    second = node.start("echo second >> journal")

    assert second.wait(20) == 0
    assert node.members() == []
    assert [a.ended_by for a in node.attempts()] == ["", "finished"]


def test_two_attempts_never_run_at_the_same_time(node):
    first = node.start("echo start >> journal; sleep 1.5; echo end >> journal")
    node.wait_for_start()
    second = node.start("echo second >> journal")

    assert (first.wait(20), second.wait(20)) == (0, 0)
    # The second one is another attempt of a submission that has finished by then.
    assert node.journal() == ["start", "end"]
    assert f"leases/key, held by a process on {socket.gethostname()}" in second.output.read_text()


def waiting(node, lease_seconds=60, **environment):
    """An attempt that waits for the lease of one that runs."""
    node.start("echo start >> journal; sleep 60")
    node.wait_for_start()
    node.environment |= environment
    second = node.start("echo second >> journal", runtime_minutes=1, lease_seconds=lease_seconds)
    wait_for(lambda: second.output.exists() and "waiting for" in second.output.read_text(), "it waits", 20)
    return second


def test_a_job_waits_for_the_end_of_a_group_that_it_was_part_of(node):
    group = node.start("echo start >> journal; until [ -e go ]; do sleep 0.1; done", parts=["b", "key"])
    node.wait_for_start()
    line = "echo alone >> journal; touch made"
    alone = node.start(line, parts=["key"], outputs=[str(node.folder / "made")])
    wait_for(lambda: alone.output.exists() and "waiting for" in alone.output.read_text(), "the job waits", 20)
    assert node.journal() == ["start"]

    (node.folder / "go").touch()

    assert [group.wait(20), alone.wait(20)] == [0, 0]
    assert node.journal() == ["start", "alone"]


def test_a_group_may_hold_more_leases_than_files_may_be_open(node):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(int(name) for name in os.listdir("/proc/self/fd"))
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 40, hard))
    try:
        assert node.start("true", parts=[f"part{i:03d}" for i in range(100)]).wait(20) == 0
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_who_waits_for_a_lease_goes_back_into_the_queue_when_it_is_preempted(node):
    second = waiting(node)
    node.says(minutes_left=1, preempted=True)

    second.send_signal(signal.SIGUSR2)

    assert second.wait(20) == 1
    assert node.requeues() == ["scontrol requeue 7_1"]
    assert len(node.attempts()) == 1


def test_nobody_waits_for_a_lease_until_the_time_limit(node):
    second = waiting(node)
    node.says(minutes_left=0.5)

    second.send_signal(signal.SIGUSR2)

    assert second.wait(20) == 1
    assert node.requeues() == []


@pytest.mark.parametrize("queue, is_gone", [("7_1|RUNNING|None|gpu1\n", False), ("", True)])
def test_after_a_limited_wait_for_a_lease_its_holder_is_named(node, queue, is_gone):
    node.slurm.answer("squeue", queue)

    second = waiting(node, lease_seconds=1, SLURM_ARRAY_TASK_ID="2")

    assert second.wait(20) == 1
    text = second.output.read_text()
    assert re.search(rf"leases/key is still held after \d+ s by job 7_1 on {re.escape(socket.gethostname())}", text)
    assert ("which Slurm no longer runs" in text) == is_gone


def test_the_time_limit_counts_from_the_start_and_not_from_the_lease(node, monkeypatch):
    lease = node.folder / "leases" / "key"
    monkeypatch.setattr(time, "time", lambda now=time.time: now() + 3500 * lease.exists())
    node.slurm.fail("scontrol", "Unable to contact slurm controller")

    node.start_and_signal(SAVING, signal.SIGUSR2, max_timeouts=1)

    assert [a.ended_by for a in node.attempts()] == ["time limit"]


def test_what_finished_just_before_a_requeue_is_not_run_again(node):
    made = node.folder / "made"
    line = f"echo start >> journal; touch {made}"
    assert node.start(line, outputs=[str(made)]).wait(20) == 0
    assert node.start(line, outputs=[str(made)]).wait(20) == 0
    assert node.journal() == ["start"]

    made.unlink()
    assert node.start(line, outputs=[str(made)]).wait(20) == 0
    assert node.journal() == ["start", "start"]


def test_results_of_earlier_attempts_are_removed(node):
    for name in ("7_1_0_result.pkl", "7_1_0_result.pkl.save_tmp"):
        (node.folder / name).write_text("of an earlier attempt")

    node.start("true").wait(20)

    assert list(node.folder.glob("*result.pkl*")) == []


def test_torchrun_gives_its_workers_the_time_that_the_command_gets(node):
    line = "echo $TORCH_ELASTIC_SHUTDOWN_TIMEOUT >> journal; exit 1"
    node.start(line, checkpoint_seconds=77).wait(20)
    node.environment["TORCH_ELASTIC_SHUTDOWN_TIMEOUT"] = "5"  # set by the user
    node.start(line, checkpoint_seconds=77).wait(20)

    assert node.journal() == ["77", "5"]


def test_the_early_signal_reaches_no_child(node):
    line = "echo start >> journal; sleep 1 & wait $!; echo end >> journal"
    process = node.start(line)
    node.wait_for_start()
    children = node.members()
    for child in children:
        os.kill(child, signal.SIGUSR2)

    assert len(children) >= 2
    assert process.wait(20) == 0
    assert node.journal() == ["start", "end"]


def test_if_slurm_refuses_the_requeue_the_record_keeps_the_reason(node):
    node.slurm.fail("scontrol", "Unable to contact slurm controller")

    assert node.start_and_signal(SAVING, signal.SIGUSR2, requeue_tries=2) == 1

    assert node.journal() == ["start", "saved"]
    assert [(a.ended_by, a.gave_up) for a in node.attempts()] == [("preempted", False)]
    assert len(node.requeues()) == 2


def test_a_launcher_on_one_node_is_a_plain_torchrun():
    words = launch({}, 4, ["package", "train"])

    expected = "-m torch.distributed.run --nproc-per-node=4 --standalone -m -- package train"
    assert " ".join(words[1:]) == expected


def test_a_launcher_on_two_nodes_starts_one_torchrun_on_each():
    job = {"SLURM_JOB_ID": "12", "SLURM_JOB_NUM_NODES": "2", "SLURM_CPUS_PER_TASK": "16"}

    words = launch(job, 4, ["package", "train"])
    expected = "srun --nodes=2 --ntasks=2 --ntasks-per-node=1 --kill-on-bad-exit=1 --cpus-per-task=16"
    assert " ".join(words).startswith(expected)
    assert words[-4:] == ["--nproc-per-node", "4", "package", "train"]

    task = job | {"SNAKEMAKE_SUBMITIT_LAUNCH": "12", "SLURM_NODEID": "1", "SLURM_LAUNCH_NODE_IPADDR": "10.0.0.7"}
    words = launch(task, 4, ["package", "train"])
    assert words[3:7] == ["--nproc-per-node=4", "--nnodes=2", "--node-rank=1", "--master-addr=10.0.0.7"]
    assert words[-4:] == ["-m", "--", "package", "train"]


def test_every_node_and_only_this_attempt_uses_the_port():
    task = {"SLURM_JOB_ID": "12", "SLURM_JOB_NUM_NODES": "2", "SNAKEMAKE_SUBMITIT_LAUNCH": "12"}
    task |= {"SLURM_LAUNCH_NODE_IPADDR": "10.0.0.7"}

    def port(**changes):
        return next(w for w in launch(task | changes, 1, ["m"]) if w.startswith("--master-port"))

    assert port(SLURM_NODEID="0") == port(SLURM_NODEID="1")
    assert port(SLURM_NODEID="0", SLURM_RESTART_COUNT="1") != port(SLURM_NODEID="0")


def test_without_any_word_on_the_nodes_a_launcher_refuses():
    task = {"SLURM_JOB_ID": "12", "SLURM_JOB_NUM_NODES": "2", "SNAKEMAKE_SUBMITIT_LAUNCH": "12", "SLURM_NODEID": "0"}

    with pytest.raises(ValueError, match="SLURM_LAUNCH_NODE_IPADDR, SLURM_JOB_NODELIST: neither is set"):
        launch(task, 1, ["m"])
