"""The command line: results to stdout, progress and warnings to stderr, errors of one or two plain lines.

Exit status: 0; 1 for a failed run; 2 for a wrong call; 130 when Ctrl-C stopped the work.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Any

import cyclopts

from workbench import __version__
from workbench.errors import WorkbenchError

SWEEP = """Train variants x seeds x any configuration fields, restartably.

The file, in YAML: preset: trigger-bigram; stream: [none, value]; seeds: 0:4; vary: {task.n_triggers: [3, 5, 8], train.batch_size:
[32, 64]}; set: {train.steps: 900} for fields that all share; cluster: {slurm_partition: gpu} for Slurm.
"""

app = cyclopts.App(
    name="workbench",
    help="Train transformers with residual attention streams on in-context learning tasks, and watch their circuits form.",
    version=__version__,
    default_parameter=cyclopts.Parameter(negative=()),
    result_action="return_value",
    suppress_keyboard_interrupt=False,  # main says what was saved
)
# Each command is imported when it is called: help and wrong calls are answered at once.
app.command("workbench.commands.demo:demo", name="demo", help="Train a vanilla and a value-stream model, analyse both, write the report.")
app.command("workbench.commands.train:train", name="train", help="Train a preset or a configuration file, in one or several variants.")
app.command("workbench.commands.analyze:analyze", name="analyze", help="Measure a run or one of its checkpoints: tables, summary, report.")
app.command("workbench.commands.compare:compare", name="compare", help="Compare variants over seeds: table, sentences, page.")
app.command("workbench.commands.report:report", name="report", help="Write the HTML report of runs that have been analysed.")
app.command("workbench.commands.sweep:sweep", name="sweep", help=SWEEP)
app.command("workbench.commands.construct:construct", name="construct", help="Make a run of a transformer built by hand.")
app.command("workbench.commands.hijack:hijack", name="hijack", help="Ask a model in words: does the context win, or what it learnt?")
app.command("workbench.commands.amicl:amicl", name="amicl", help="Measure the associative-memory model of in-context learning.")
app.command("workbench.commands.import_weights:import_weights", name="import", help="Make a run of a classic HookedTransformer's weights.")
app.command("workbench.commands.lists:presets", name="presets", help="List the presets, or print one as YAML.")
app.command("workbench.commands.lists:tasks", name="tasks", help="List the tasks.")
app.command("workbench.commands.lists:metrics", name="metrics", help="List every metric with its section, range and source.")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and end the process with its status. `--debug` anywhere shows tracebacks."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in words
    words = [word for word in words if word != "--debug"]
    try:
        app(words, exit_on_error=False, print_error=False)
        sys.stdout.flush()
        status = 0
    except WorkbenchError as error:
        if debug:
            raise
        status = _say(str(error), error.exit_status)
    except cyclopts.CycloptsError as error:
        if debug:
            raise
        status = _say(f"{_one_line(error)} (workbench --help tells more)", 2)
    except KeyboardInterrupt as stop:
        status = _say(str(stop) or "stopped", 130)
    except BrokenPipeError:
        # The reader of our output has gone (workbench metrics | head): nothing more to say to it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 0
    sys.exit(status)


def _say(message: str, status: int) -> int:
    print(f"workbench: {message}", file=sys.stderr)
    return status


def _one_line(error: Any) -> str:
    return " ".join(str(error).split())


if __name__ == "__main__":
    main()
