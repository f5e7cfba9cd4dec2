"""A client that a test kills: `python -m tests.jobs.client FOLDER ADDRESS|WORKERS JOBS SECONDS`."""

import sys
from pathlib import Path

from onnxprune.jobs.cluster import open_cluster
from onnxprune.jobs.log import Log
from onnxprune.jobs.run import Job, run_jobs
from tests.jobs.functions import noted


def main(folder, where, jobs, seconds):
    local = where.isdecimal()
    cluster = open_cluster(
        "processes" if local else "dask", workers=int(where) if local else None, address=None if local else where
    )
    todo = [Job(str(k), (k, float(seconds))) for k in range(int(jobs))]
    with Log(Path(folder) / "log.jsonl") as log:
        for done in run_jobs(noted, folder, todo, cluster, log):
            print(done.job.key, flush=True)
    cluster.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
