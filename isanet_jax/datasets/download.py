"""The public soft-tissue-sarcoma cohort, fetched and verified."""

import hashlib
import http.client
import os
import time
import urllib.error
import urllib.request
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from isanet_jax.errors import DataError

# The commit that the list of files was made from.
STS_URL = (
    "https://raw.githubusercontent.com/theibsi/data_sets/6da96021bc91faf4c0cb7fd7fa56a4225d2064a8"
)
STS_NOTICE = """\
Soft-tissue-Sarcoma (51 patients), The Cancer Imaging Archive, in the copy of the Image Biomarker
Standardisation Initiative (github.com/theibsi/data_sets, ibsi_validation): PET converted to SUV,
cropped 5 cm around the tumour. Licence: Creative Commons Attribution 3.0 Unported. Cite:
  Vallieres M, Freeman CR, Skamene SR, El Naqa I (2015). A radiomics model from joint FDG-PET and
  MRI texture features for the prediction of lung metastases in soft-tissue sarcomas of the
  extremities. The Cancer Imaging Archive. doi 10.7937/K9/TCIA.2015.7GO2GSKS; Phys Med Biol,
  doi 10.1088/0031-9155/60/14/5471.
  Clark K et al. (2013). The Cancer Imaging Archive (TCIA). J Digit Imaging 26(6), 1045-1057."""
EXAMPLE = "STS_018"  # of whom the model `sarcoma` has not learnt
_PREFIX = "ibsi_validation/nifti/"
_CHUNK = 2**18
_LARGEST = 2**30  # of a file whose size the list does not know
_ATTEMPTS = 5
_CONTENT_ERRORS = (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError)


class RemoteFile(NamedTuple):
    """A file of the list: `path` below the address, git blob ID, size (or 0), SHA-256 (or "")."""

    path: str
    blob: str
    size: int
    sha256: str


def sts_files() -> list[RemoteFile]:
    """The list that is kept beside this module."""
    text = Path(__file__).with_name("sts_files.tsv").read_text(encoding="utf-8")
    return read_list(text)


def example_files() -> list[RemoteFile]:
    """CT and PET of `EXAMPLE`."""
    wanted = [f"{_PREFIX}{EXAMPLE}/{name}_image.nii.gz" for name in ("CT", "PET")]
    return [file for file in sts_files() if file.path in wanted]


def read_list(text: str) -> list[RemoteFile]:
    """Reads lines of path, blob ID, bytes, SHA-256, tab-separated; `#` begins a comment."""
    files = []
    for line in text.splitlines():
        if line and not line.startswith("#"):
            path, blob, size, sha256 = (line.split("\t") + [""] * 3)[:4]
            files.append(RemoteFile(path, blob, int(size or 0), sha256))
    return files


def download(folder, files: list[RemoteFile], *, url=STS_URL, wait_s=2.0) -> None:
    """Fetches files that are not there yet; what a cut connection left is continued.

    Args:
        folder: gets the files, without the list's common prefix.
        files: what to fetch, and the sums to check it by.
        url: address that the list's paths are below.
        wait_s: before the second attempt at a file; doubles with each further one.

    Raises:
        DataError: the address cannot be reached, a file has another sum, or cannot be written.
            The same call then resumes from there.
    """
    from tqdm import tqdm

    folder = Path(folder)
    with tqdm(total=sum(f.size for f in files), unit="B", unit_scale=True, disable=None) as bar:
        for file in files:
            target = folder / _local(file.path)
            try:
                if not (target.exists() and _is_right(target, file)):
                    target.parent.mkdir(parents=True, exist_ok=True)
                    _fetch(file, target, f"{url.rstrip('/')}/{file.path}", wait_s)
            except _CONTENT_ERRORS as error:
                raise DataError(
                    f"cannot be fetched ({getattr(error, 'reason', None) or error})",
                    file=f"{url.rstrip('/')}/{file.path}",
                    action="Check the connection and run the same command again: it resumes from "
                    "here",
                ) from error
            except OSError as error:
                raise DataError(
                    f"cannot be written ({error.strerror or error})",
                    file=target,
                    action="Free space on the disk and run the same command again: it resumes from "
                    "here",
                ) from error
            bar.update(file.size)


def _local(path):
    """Where a file of the list lies below the folder. Raises DataError on a path out of it."""
    local = PurePosixPath(path.removeprefix(_PREFIX))
    if local.is_absolute() or ".." in local.parts or not local.parts:
        raise DataError("a path that leaves the folder", file=path)
    return local


def _is_right(path, file):
    """Whether a file has the list's size and sums."""
    size = path.stat().st_size
    if file.size not in (0, size):
        return False
    # Git's own name of the content; SHA-1 is not relied on where the list has a SHA-256.
    blob, sha256 = hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False), hashlib.sha256()
    with open(path, "rb") as content:
        while chunk := content.read(_CHUNK):
            blob.update(chunk)
            sha256.update(chunk)
    return blob.hexdigest() == file.blob and file.sha256 in ("", sha256.hexdigest())


def _fetch(file, target, address, wait_s):
    """Fetches one file into its place; raises the last attempt's error."""
    partial = target.with_name(f".{target.name}.part")
    for attempt in range(_ATTEMPTS):
        try:
            _continue(file, partial, address)
            if _is_right(partial, file):
                os.replace(partial, target)
                return
            partial.unlink()
            wrong = "arrived with another size or sum than the list's"
            error = DataError(
                wrong, file=address, action="Run the same command again; if it persists, the copy "
                "at this address is not the one that the list was made from",
            )  # fmt: skip
        except urllib.error.HTTPError as failure:
            if failure.code in (400, 401, 403, 404, 410):
                raise  # will not mend
            error = failure
        except _CONTENT_ERRORS as failure:
            error = failure
        if attempt + 1 < _ATTEMPTS:
            time.sleep(wait_s * 2**attempt)
    raise error


def _continue(file, partial, address):
    """Appends to the partial file what it lacks."""
    have = partial.stat().st_size if partial.exists() else 0
    if have and have == file.size:
        return
    if not address.startswith(("https://", "http://")):
        raise DataError("not an address to fetch from", file=address, wanted="https://...")
    headers = {"Range": f"bytes={have}-"} if have else {}
    request = urllib.request.Request(address, headers=headers)  # noqa: S310 - checked above
    try:
        answer = urllib.request.urlopen(request, timeout=60)  # noqa: S310
    except urllib.error.HTTPError as error:
        if error.code == http.client.REQUESTED_RANGE_NOT_SATISFIABLE:
            return  # nothing is lacking; whether it is right is seen by the sum
        raise
    with answer:
        # A server that knows no ranges sends the whole file.
        mode = "ab" if answer.status == http.client.PARTIAL_CONTENT else "wb"
        start = have if mode == "ab" else 0
        left = (file.size or _LARGEST) - start
        with open(partial, mode) as out:
            while left > 0 and (chunk := answer.read(min(_CHUNK, left))):
                out.write(chunk)
                left -= len(chunk)
        if answer.length:  # of what the server announced, this did not come
            raise http.client.IncompleteRead(b"", answer.length)
