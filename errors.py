"""What can go wrong, as a user meets it: a class each, with a stable code, an HTTP status and a text with advice.

Codes that start with KCH or WOK are Kimchi's and Wok's, which consumers know; CLN are ours. Names and messages from
outside appear in a text with `<` and `>` replaced, since Kimchi's page shows texts as markup.
"""

from __future__ import annotations

import unicodedata
from typing import ClassVar


def plain(value: object) -> str:
    """`value` as text that no page takes for markup and no terminal for a command."""
    return printable(str(value).replace("<", "‹").replace(">", "›"))


def printable(value: object) -> str:
    """`value` as text of one line that no terminal takes for a command. QEMU's reasons have several lines."""
    text = str(value)
    if text.isprintable():
        return text
    return "".join(_printable(character) for character in text)


def _printable(character: str) -> str:
    if unicodedata.category(character) not in ("Cc", "Cf", "Cs", "Zl", "Zp"):
        return character
    return " " if character.isspace() else "�"


class ClonerError(Exception):
    """An error that has an answer. `data` fills the places in the class's text."""

    code: ClassVar[str] = "CLN0001E"
    status: ClassVar[int] = 500
    text: ClassVar[str] = "Something unforeseen happened. The log has more under reference {reference}"
    retry_after: ClassVar[int | None] = None
    """Seconds after which a repetition may succeed, where one can."""

    def __init__(self, **data: object) -> None:
        self.data = data
        super().__init__(self.reason)

    @property
    def reason(self) -> str:
        """The code and the text, as `reason` of an HTTP answer or `message` of a failed task has them."""
        return f"{self.code}: {self.text.format(**{key: plain(value) for key, value in self.data.items()})}"


# --- Not there -------------------------------------------------------------------------------------------------------


class DomainNotFound(ClonerError):
    code, status, text = "KCHVM0002E", 404, "Virtual machine {name} does not exist"


class PoolNotFound(ClonerError):
    code, status, text = "KCHPOOL0002E", 404, "Storage pool {pool} does not exist"


class VolumeNotFound(ClonerError):
    code, status, text = "KCHVOL0002E", 404, "Storage volume {name} does not exist in storage pool {pool}"


class BatchNotFound(ClonerError):
    code, status, text = "CLNBATCH0001E", 404, "Batch {id} does not exist"


class TaskNotFound(ClonerError):
    code, status, text = "WOKASYNC0001E", 404, "Task {id} does not exist"


class ResourceNotFound(ClonerError):
    code, status, text = "CLNAPI0001E", 404, "There is nothing at {path}. GET the collection to see what there is"


# --- Requests that cannot be understood ------------------------------------------------------------------------------


class MethodNotAllowed(ClonerError):
    code, status, text = "CLNAPI0002E", 405, "{method} is not possible here. Possible: {allow}"


class MalformedJSON(ClonerError):
    code, status, text = "WOKAPI0006E", 400, "The body is not valid JSON: {cause}"


class WrongMediaType(ClonerError):
    code, status, text = "WOKAPI0007E", 415, "The body must be sent as Content-Type: application/json"


class NotAnObject(ClonerError):
    code, status, text = "CLNAPI0003E", 400, "The body must be a JSON object such as {{}}, not {kind}"


class InvalidParameter(ClonerError):
    code, status, text = "CLNAPI0004E", 400, "Field {field}: {cause}"


class BodyTooLarge(ClonerError):
    code, status, text = "CLNAPI0005E", 413, "The body has more than {limit} bytes"


class InvalidFilter(ClonerError):
    code, status, text = "CLNAPI0006E", 400, "The filter on {field} is not a usable regular expression: {cause}"


class BadRequest(ClonerError):
    code, status, text = "CLNAPI0007E", 400, "The request cannot be understood: {cause}"


class KeyReused(ClonerError):
    code, status, text = (
        "CLNAPI0009E",
        422,
        "The Idempotency-Key {key} came with another request before. Take a new one for each request",
    )


class KeyInUse(ClonerError):
    code, status, text = (
        "CLNAPI0010E",
        409,
        "The first request with the Idempotency-Key {key} is still being accepted. Repeat it shortly",
    )
    retry_after = 1


# --- Who asks --------------------------------------------------------------------------------------------------------


class NotLoggedIn(ClonerError):
    code, status, text = "WOKAUTH0002E", 401, "You are not logged in. Log in, or send a token"


class WrongCredentials(ClonerError):
    code, status, text = "WOKAUTH0008E", 401, "The user name or password is wrong"


class TooManyAttempts(ClonerError):
    code, status, text = "WOKAUTH0004E", 403, "Too many failed log-ins. Try again in {seconds} seconds"

    def __init__(self, seconds: int) -> None:
        super().__init__(seconds=seconds)
        self.retry_after = seconds  # type: ignore[misc]  # this one wait is known only when it happens


class ForeignOrigin(ClonerError):
    code, status, text = "CLNAUTH0001E", 403, "A page of another site may not change anything here"


class ForeignHost(ClonerError):
    code, status, text = (
        "CLNAUTH0002E",
        403,
        "This server does not go by the name {host}. If it should, add the name to server_names in cloner.conf",
    )


class OnlyReads(ClonerError):
    code, status, text = "CLNAUTH0003E", 403, "This token may only look. Use one of scope clone or admin"


class NotYours(ClonerError):
    code, status, text = (
        "CLNAUTH0004E",
        403,
        "{what} is not yours. Only who made it, and an administrator, may start, end or delete it",
    )


class LoginUnavailable(ClonerError):
    code, status, text = (
        "CLNAUTH0005E",
        503,
        "The system does not say who that user is: it takes too long. See that its name services and PAM answer",
    )
    retry_after = 5


class TokenNotFound(ClonerError):
    code, status, text = "CLNTOKEN0001E", 404, "Token {name} does not exist. cloner token list shows those that do"


class TokenExists(ClonerError):
    code, status, text = "CLNTOKEN0002E", 409, "Token {name} exists already. Choose another name, or revoke it first"


# --- Names -----------------------------------------------------------------------------------------------------------


class InvalidName(ClonerError):
    code, status, text = "CLNNAME0001E", 400, "The name {name} cannot be used: {cause}"


class NameTaken(ClonerError):
    code, status, text = (
        "CLNNAME0002E",
        409,
        "The name {name} is taken: {cause}. Choose another, or leave it out to get a new one",
    )


# --- What cannot be cloned -------------------------------------------------------------------------------------------


class DomainNotShutOff(ClonerError):
    code, status, text = "KCHVM0033E", 400, "Virtual machine {name} is {state}. Shut it down, then clone it"


class DomainHasSavedState(ClonerError):
    code, status, text = (
        "CLNVM0001E",
        400,
        "Virtual machine {name} has a saved memory image, without which its disks are as after a power cut. Start and "
        "shut it down, or discard the image (virsh managedsave-remove), then clone it",
    )


class DiskNotCloneable(ClonerError):
    code, status, text = "CLNVM0002E", 400, "Disk {disk} of virtual machine {name} cannot be cloned: {cause}"


class DeviceNotCloneable(ClonerError):
    code, status, text = "CLNVM0003E", 400, "Virtual machine {name} cannot be cloned: {cause}"


class DomainIsRunning(ClonerError):
    code, status, text = "CLNVM0004E", 400, "Virtual machine {name} is {state}. Shut it down before it is deleted"


class DomainDeletedInPart(ClonerError):
    code, status, text = (
        "CLNVM0005E",
        502,
        "Virtual machine {name} is deleted, but not its storage {storage}: {cause}. Delete that storage by hand",
    )


class SourceInUse(ClonerError):
    code, status, text = "CLNVM0007E", 409, "{name} cannot be {act} now: {cause}"


class DomainIsActive(ClonerError):
    code, status, text = "CLNVM0008E", 400, "Virtual machine {name} is {state} already"


class MethodCannotServe(ClonerError):
    code, status, text = "CLNVM0006E", 400, "Method {method} cannot clone {disk}: {cause}. {advice}"


class VolumeIsWritten(ClonerError):
    code, status, text = (
        "CLNVOL0003E",
        400,
        "Storage volume {name} is a disk of {users}, which may write to it. Shut that down, then clone the volume",
    )


class VolumeNotCloneable(ClonerError):
    code, status, text = "CLNVOL0001E", 400, "Storage volume {name} cannot be cloned: {cause}"


# --- Where to --------------------------------------------------------------------------------------------------------


class PoolInactive(ClonerError):
    code, status, text = (
        "CLNPOOL0001E",
        400,
        "Storage pool {pool} is not active. Start it (virsh pool-start) or choose another",
    )


class PoolCannotCreate(ClonerError):
    code, status, text = (
        "CLNPOOL0002E",
        400,
        "Storage pool {pool} of type {type} cannot create volumes, or lies where nothing can be written. Name another "
        "pool in the field pool",
    )


class NoRoom(ClonerError):
    code, status, text = (
        "KCHVM0034E",
        507,
        "Storage pool {pool} has room for {available} bytes, and {needed} are needed. Free some, or name another pool",
    )


# --- How much --------------------------------------------------------------------------------------------------------


class TooManyRunning(ClonerError):
    code, status, text = (
        "CLNLIMIT0001E",
        429,
        "{running} clones of yours are being made, and {limit} may be. Wait for one to end, or cancel one",
    )
    retry_after = 5


class TooManyBytes(ClonerError):
    code, status, text = (
        "CLNLIMIT0002E",
        507,
        "This clone takes {needed} bytes, and clones of yours are still writing {promised} of the {limit} that you may "
        "have in the making. Wait for some to end, or cancel one",
    )

    def __init__(self, needed: int, promised: int, limit: int) -> None:
        super().__init__(needed=needed, promised=promised, limit=limit)
        # One that is too large by itself stays so.
        self.retry_after = 10 if needed <= limit else None  # type: ignore[misc]  # known only when it happens


# --- libvirt and the journal -----------------------------------------------------------------------------------------


class LibvirtUnavailable(ClonerError):
    code, status, text = (
        "CLNVIRT0001E",
        503,
        "libvirt at {uri} does not answer: {cause}. See that libvirtd runs there",
    )
    retry_after = 2


class LibvirtFailed(ClonerError):
    code, status, text = "CLNVIRT0002E", 502, "libvirt could not {act}: {cause}"


class Busy(ClonerError):
    code, status, text = "CLNVIRT0003E", 503, "libvirt is busy with {what}. Try again shortly"
    retry_after = 1


class TooManyStreams(ClonerError):
    code, status, text = (
        "CLNAPI0011E",
        503,
        "As many clients follow the events as max_streams allows. Ask for the tasks instead, or come again",
    )
    retry_after = 10


class JournalUnavailable(ClonerError):
    code, status, text = "CLNJRN0001E", 503, "The journal cannot be used now: {cause}. See that its disk has room"
    retry_after = 5


class JournalTooNew(ClonerError):
    code, status, text = (
        "CLNJRN0002E",
        500,
        "The journal is of version {found}, and this program knows versions up to {known}. Use the newer program",
    )


class BackupFailed(ClonerError):
    code, status, text = "CLNJRN0003E", 500, "The journal cannot be backed up to {file}: {cause}"


# --- The server ------------------------------------------------------------------------------------------------------


class NotReady(ClonerError):
    code, status, text = "CLNSRV0001E", 503, "The server cannot clone now ({checks}). Its log has the cause"
    retry_after = 2


class ShuttingDown(ClonerError):
    code, status, text = "CLNSRV0002E", 503, "The server is stopping. Ask the one that takes its place"
    retry_after = 2


# --- How a task ended ------------------------------------------------------------------------------------------------


class CloneFailed(ClonerError):
    code, status, text = "CLNTASK0001E", 502, "{step} failed: {cause}. Everything made for this clone was removed"


class CloneFailedWithLeftovers(ClonerError):
    code, status, text = (
        "CLNTASK0002E",
        502,
        "{step} failed: {cause}. Not everything made for this clone could be removed: {rest}",
    )


class CloneCancelled(ClonerError):
    code, status, text = "CLNTASK0003E", 409, "The clone was cancelled. Everything made for it was removed"


class ServerStopped(ClonerError):
    code, status, text = (
        "CLNTASK0004E",
        503,
        "The server stopped before this clone was complete. Everything made for it was removed: clone again",
    )


class VolumeInTheWay(ClonerError):
    code, status, text = "CLNVOL0002E", 409, "{pool} has something named {name} already, which is left alone: {cause}"


class SourceStarted(ClonerError):
    code, status, text = (
        "CLNTASK0006E",
        409,
        "The source was started while it was cloned. Everything made for the clone was removed: shut it down, repeat",
    )


class SourceChanged(ClonerError):
    code, status, text = (
        "CLNTASK0007E",
        409,
        "The source {name} was written to while it was cloned. Everything made for the clone was removed: repeat",
    )


class NotRemoved(ClonerError):
    code, status, text = "CLNTASK0009E", 502, "It was to be removed with its batch, and could not be: {cause}"


class Withdrawn(ClonerError):
    code, status, text = "CLNTASK0010E", 409, "It was finished, and removed again with its batch"


class NotStarted(ClonerError):
    code, status, text = "CLNTASK0008E", 502, "The clone is complete, but could not be started: {cause}"


class UnderWayInBackup(ClonerError):
    code, status, text = (
        "CLNTASK0011E",
        409,
        "The journal was put back from a backup that was made while {name} was being cloned. Nothing was removed: look "
        "whether it is complete, and delete what is not",
    )


class UndoneLater(ClonerError):
    code, status, text = (
        "CLNTASK0012E",
        502,
        "This clone has ended, but what was made for it cannot be removed yet: {cause}. It is tried until it can",
    )


class StepFailed(ClonerError):
    code, status, text = "CLNTASK0005E", 502, "{cause}"


# --- Configuration ---------------------------------------------------------------------------------------------------


class InvalidConfiguration(ClonerError):
    code, status, text = "CLNCONF0001E", 500, "Configuration: {cause}"


def cause_of(error: ClonerError) -> str:
    """What went wrong, without the code of an error that only wraps it."""
    return str(error.data["cause"]) if isinstance(error, StepFailed) else error.reason
