"""What mail programs see, with the real Dovecot."""

from __future__ import annotations

import imaplib
import poplib
import time

import pytest

from egressguard.access.sessions import OpenSession
from egressguard.quarantine.maildir import id_of
from tests.access.conftest import SPARE_ACCOUNTS
from tests.smtp.scram_client import ScramClient

pytestmark = pytest.mark.peers

CONTENT = b"From: <x@example.net>\r\nSubject: hello\r\n\r\n8-bit \xff\xfe\r\n.\r\n..two dots\r\nlong %s\r\n" % (
    b"x" * 2000
)
TRACE = b"Return-Path: <x@example.net>\r\nDelivered-To: %s@example.org\r\n"


def fresh(server):
    """An account that no other test uses."""
    return server.house.spare.pop()


def eventually(check, seconds=15):
    """Poll what only Dovecot's own clock decides; the answer, once it is true."""
    deadline = time.monotonic() + seconds
    while not (answer := check()):
        if time.monotonic() > deadline:
            pytest.fail("did not become true in time")
        time.sleep(0.05)
    return answer


def messages_seen(client, folder="INBOX"):
    _, found = client.select(folder)
    return int(found[0])


def fetch(client, number, what="(BODY.PEEK[])"):
    return client.fetch(str(number), what)[1][0][1]


def folders(client):
    return {line.decode().rpartition('"/" ')[2] for line in client.list()[1] if line}


def test_a_delivered_message_is_read_byte_exact_over_imap(server):
    server.house.deliver("imap1", "anna", CONTENT)
    client = server.imap("anna")

    number = messages_seen(client)
    assert fetch(client, number) == TRACE % b"anna" + CONTENT
    client.logout()


def test_a_delivered_message_is_read_byte_exact_over_pop3_and_deleted(server):
    name = fresh(server)
    server.house.deliver("pop1", name, CONTENT)
    client = server.pop3(name)
    _, lines, _ = client.retr(1)
    assert b"\r\n".join(lines) + b"\r\n" == TRACE % name.encode() + CONTENT
    client.dele(1)
    client.quit()

    assert server.pop3(name).stat()[0] == 0
    assert list((server.house.directory / "mailboxes" / name).glob("*/*Qpop1*")) == []


def test_what_a_mail_program_removes_is_recorded(server):
    name = fresh(server)
    server.house.deliver("gone1", name, CONTENT)
    client = server.imap(name)
    client.select("INBOX")
    client.store("1", "+FLAGS", "\\Deleted")
    client.expunge()
    client.logout()

    removal = ("mailbox.removal", {"protocol": "imap", "user": name, "event": "expunge"})
    eventually(lambda: removal in server.house.records)
    assert server.metric("removals_total", event="expunge") >= 1


def test_the_pop3_uidl_is_the_file_s_own_name(server):
    name = fresh(server)
    server.house.deliver("uidl1", name, CONTENT)
    [path] = (server.house.directory / "mailboxes" / name / "new").iterdir()
    uidl = server.pop3(name).uidl()[1][0].split()[1]

    assert uidl.decode() == path.name
    assert len(uidl) <= 70  # RFC 1939 s7


def test_starttls_then_login(server):
    client = imaplib.IMAP4("127.0.0.1", server.ports["imap"])
    assert "STARTTLS" in client.capabilities
    client.starttls(server.tls())

    assert client.login("anna", "secret")[0] == "OK"
    client.logout()


def test_a_wrong_password_is_refused_and_counted(server):
    before = server.metric("logins_total", protocol="imap", result="refused")
    with pytest.raises(imaplib.IMAP4.error, match="AUTHENTICATIONFAILED"):
        server.imap("anna", "wrong")

    eventually(lambda: server.metric("logins_total", protocol="imap", result="refused") == before + 1)
    refused = [fields for kind, fields in server.house.records if kind == "mailbox.login_refused"]
    assert refused[-1] == {"protocol": "imap", "user": "anna", "client": "127.0.0.1"}


def test_a_new_account_works_without_a_restart_and_a_disabled_one_does_not(server):
    starts = server.metric("server_starts_total")
    server.house.add("newcomer")
    # Dovecot looks at the file's time once a second, and delays each refusal.
    eventually(lambda: gets_in(server, "newcomer"), seconds=40)
    server.house.accounts.disable("newcomer")
    eventually(lambda: not gets_in(server, "newcomer"), seconds=40)

    assert server.metric("server_starts_total") == starts


def scram(server, name, password):
    """Log in by SCRAM-SHA-256: (answer, the client, whether the server has proved that it knows the password, too)."""
    client, peer = server.imap(), ScramClient(name, password)
    try:
        said = client.authenticate("SCRAM-SHA-256", peer.answer)[0]
        return said, client, peer.is_satisfied(peer.server_final)
    except imaplib.IMAP4.error as wrong:
        return str(wrong), client, False


def test_scram_lets_in_who_knows_the_password_and_nobody_else(server):
    answer, client, proved = scram(server, "anna", "secret")
    assert (answer, proved) == ("OK", True)
    assert messages_seen(client) >= 0
    client.logout()

    assert "AUTHENTICATIONFAILED" in scram(server, "anna", "wrong")[0]


def offers_scram(server):
    """None: a reload was just ending the process that greets."""
    try:
        client = server.imap()
        capabilities = client.capabilities
        client.logout()
    except (imaplib.IMAP4.error, OSError):
        return None
    return "AUTH=SCRAM-SHA-256" in capabilities


def test_scram_is_offered_only_while_everybody_could_log_in_by_it(server):
    """Some mail programs try nothing else where it is offered."""
    eventually(lambda: offers_scram(server))
    starts, client = server.metric("server_starts_total"), server.imap("anna")
    server.house.add("bell", "ring \x07")  # SASLprep allows no such password
    eventually(lambda: offers_scram(server) is False)
    eventually(lambda: gets_in(server, "bell", "ring \x07"), seconds=40)
    server.house.accounts.disable("bell")

    eventually(lambda: offers_scram(server))
    assert client.noop()[0] == "OK"
    assert server.metric("server_starts_total") == starts
    server.house.accounts.delete("bell")


@pytest.mark.parametrize(
    "change",
    [
        lambda accounts, name: accounts.disable(name),
        lambda accounts, name: accounts.delete(name),
        lambda accounts, name: accounts.set_password(name, "another"),
    ],
    ids=["disabled", "deleted", "another password"],
)
def test_an_account_that_loses_its_access_loses_its_sessions(server, change):
    name = fresh(server)
    imap, pop3, other = server.imap(name), server.pop3(name), server.imap("anna")
    change(server.house.accounts, name)

    eventually(lambda: is_over(imap.noop))
    eventually(lambda: is_over(pop3.noop))
    assert other.noop()[0] == "OK"
    ended = {"user": name, "why": "its account or password has changed"}
    eventually(lambda: ("mailbox.sessions_ended", ended) in server.house.records)


def is_over(command):
    try:
        command()
    except (imaplib.IMAP4.abort, poplib.error_proto, OSError, EOFError):
        return True
    return False


def test_sessions_are_told_and_counted(server):
    client = server.imap("bob")
    sessions = server.call(server.access.sessions())
    assert OpenSession("imap", "bob", "127.0.0.1") in sessions
    client.logout()


def gets_in(server, name, password="secret"):
    try:
        server.imap(name, password).logout()
    except imaplib.IMAP4.error:
        return False
    return True


def test_a_login_is_counted_and_recorded(server):
    before = server.metric("logins_total", protocol="pop3", result="accepted")
    server.pop3("bob").quit()

    eventually(lambda: server.metric("logins_total", protocol="pop3", result="accepted") == before + 1)
    assert ("mailbox.login", {"protocol": "pop3", "user": "bob", "client": "127.0.0.1"}) in server.house.records


def test_special_use_folders_are_there_and_subscribed(server):
    client = server.imap("anna")
    lines = b"\n".join(client.list()[1])
    subscribed = b"\n".join(client.lsub()[1])

    for folder in (b"Drafts", b"Junk", b"Sent", b"Trash"):
        assert b'\\%s) "/" %s' % (folder, folder) in lines
        assert folder in subscribed
    client.logout()


def test_delivery_works_into_folders_that_dovecot_made_first(server):
    name = fresh(server)
    client = server.imap(name)
    client.append("Sent", None, None, b"Subject: sent\r\n\r\n")
    maildir = server.house.directory / "mailboxes" / name
    eventually(lambda: all((maildir / part).stat().st_mode & 0o7777 == 0o2770 for part in (".", "tmp", "new", "cur")))

    server.house.deliver("later", name, CONTENT)
    assert messages_seen(client) == 1
    client.logout()


def test_a_client_that_waits_sees_a_new_delivery(server):
    client = server.imap("anna")
    before = messages_seen(client)
    server.house.deliver("noop1", "anna", CONTENT)

    def grown():
        client.noop()
        found = client.response("EXISTS")[1][-1]
        return found is not None and int(found) == before + 1

    eventually(grown)
    client.logout()


def test_idle_tells_of_a_new_delivery(server):
    client = server.imap("anna")
    before = messages_seen(client)
    client.send(b"a1 IDLE\r\n")
    assert client.readline().startswith(b"+")
    server.house.deliver("idle1", "anna", CONTENT)

    assert client.readline() == b"* %d EXISTS\r\n" % (before + 1)
    client.send(b"DONE\r\n")
    client.shutdown()


def uid_move(client, folder):
    """MOVE, which imaplib does not know: (answer, its words)."""
    answer, words = client._simple_command("MOVE", "1", folder)
    return answer, words[0]


def test_an_admin_sees_all_that_is_held_and_can_neither_add_nor_remove(server):
    held = b"Subject: held\r\n\r\nbad things\r\n"
    path = server.house.hold("HELDALL1", held)
    client = server.imap("boss")
    assert {"Quarantine-all/Held", "Quarantine-all/Infected", "Quarantine-all/Denied"} <= folders(client)

    count = messages_seen(client, "Quarantine-all/Held")
    assert fetch(client, count) == held
    assert client.append("Quarantine-all/Held", None, None, b"x: y\r\n\r\n")[0] == "NO"
    client.store("1:*", "+FLAGS", "\\Deleted")
    client.expunge()
    assert messages_seen(client, "Quarantine-all/Held") == count
    assert client.create("Quarantine-all/Mine")[0] == "NO"
    assert client.copy("1", "Quarantine-all/Denied")[0] == "NO"
    assert client.rename("Quarantine-all/Held", "Quarantine-all/Mine")[0] == "NO"
    assert client.delete("Quarantine-all/Held")[0] == "NO"
    client.shutdown()  # 2.3 ends the session of one who tried to delete the folder he had open

    assert messages_seen(server.imap("boss"), "Quarantine-all/Held") == count
    assert path.read_bytes() == held


def test_a_user_sees_what_is_his_and_can_neither_add_nor_remove(server):
    held = b"Subject: for anna\r\n\r\nbad things\r\n"
    path = server.house.hold("HELDOWN1", held, owners=("anna",))
    client = server.imap("anna")
    assert {name for name in folders(client) if "uarantine" in name} == {
        *("Quarantine", "Quarantine/Held", "Quarantine/Release", "Quarantine/Delete")
    }
    count = messages_seen(client, "Quarantine/Held")
    assert fetch(client, count) == held
    assert client.append("Quarantine/Held", None, None, b"x: y\r\n\r\n")[0] == "NO"
    client.store("1:*", "+FLAGS", "\\Deleted")
    client.expunge()
    assert messages_seen(client, "Quarantine/Held") == count
    for folder in ("Quarantine/Mine", "Quarantine/Release/Mine", "Quarantine"):
        assert client.create(folder)[0] == "NO"
    for folder in ("Quarantine-all", "Quarantine-all/Held", "Quarantine/../boss/Held"):
        assert client.select(f'"{folder}"')[0] == "NO"
    client.shutdown()
    assert path.read_bytes() == held


@pytest.mark.parametrize("order", ["Release", "Delete"])
@pytest.mark.parametrize(("user", "folder"), [("anna", "Quarantine/Held"), ("boss", "Quarantine-all/Infected")])
def test_a_move_leaves_a_link_in_the_mover_s_own_order_folder(server, user, folder, order):
    name = f"MOVED{user}{order}".upper()
    path = server.house.hold(name, b"Subject: move\r\n\r\n", folder=f".{folder.partition('/')[2]}", owners=("anna",))
    client = server.imap(user)
    while messages_seen(client, folder):
        assert uid_move(client, f"Quarantine/{order}")[0] == "OK"
    client.logout()

    (entry,) = [one for one in server.house.ordered(user, order) if name in one.name]
    assert entry.samefile(path)
    eventually(lambda: user in server.ordered)


def test_what_is_appended_to_an_order_folder_has_no_held_message_s_name(server):
    client = server.imap("anna")
    assert client.append("Quarantine/Release", None, None, b"Subject: mine\r\n\r\n")[0] == "OK"
    names = [path.name for path in (server.house.views.root / "own/anna/.Release").glob("*/*.*")]

    assert [name for name in names if ".M" in name]
    assert all(id_of(name) is None for name in names if ".M" in name)
    client.logout()


def test_one_who_has_no_view_sees_no_quarantine(server):
    client = server.imap("bob")

    assert not any(name.startswith("Quarantine") for name in folders(client))
    for folder in ("Quarantine", "Quarantine/Held", "Quarantine/INBOX", "Quarantine-all", "Quarantine-all/Held"):
        assert client.select(folder)[0] == "NO"
        assert client.status(folder, "(MESSAGES)")[0] == "NO"
        assert client.create(f"{folder}/Mine")[0] == "NO"
    client.logout()


def test_admins_share_flags_but_not_what_they_have_read(server):
    server.house.hold("SEEN0001", b"Subject: seen\r\n\r\n", folder=".Denied")
    client = server.imap("boss")
    number = messages_seen(client, "Quarantine-all/Denied")
    client.store(str(number), "+FLAGS", "(\\Seen \\Flagged)")
    client.logout()

    [path] = (server.house.views.root / "all" / ".Denied").glob("*/*QSEEN0001*")
    assert path.name.endswith(":2,F")


def test_path_tricks_in_login_names_are_refused(server):
    with pytest.raises(imaplib.IMAP4.error):
        server.imap("../anna")

    names = {path.name for path in (server.house.directory / "mailboxes").iterdir()}
    assert names <= {"anna", "bob", "boss", "bell", "newcomer", *(f"user{number}" for number in range(SPARE_ACCOUNTS))}


def test_folder_names_cannot_leave_the_mailbox(server):
    server.house.deliver("bobs", "bob", CONTENT)
    client = server.imap("anna")

    for folder in ("../bob", "../../accounts", "/etc", "Sent/../../bob"):
        assert client.select(f'"{folder}"')[0] == "NO"
        assert client.create(f'"{folder}"')[0] == "NO"
    client.logout()


def test_nothing_is_written_outside_its_directories(server):
    server.imap("anna").logout()

    assert {path.name for path in server.house.directory.iterdir()} <= {
        *("base_dir", "state_dir", "mailboxes", "quarantine", "accounts", "certificate", "private_key"),
        *("dovecot", "doveconf", "doveadm"),
    }


def test_status_says_what_runs(server):
    status = server.access.status()

    assert status["state"] == "running"
    assert status["problem"] == ""
    assert status["version"] in ("2.3", "2.4")
    assert server.metric("server_running") == 1
