"""What mail programs see, with the real Dovecot."""

from __future__ import annotations

import imaplib
import time

import pytest

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


def gets_in(server, name):
    try:
        server.imap(name).logout()
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


def test_an_admin_reads_the_quarantine_and_can_neither_add_nor_remove(server):
    held = b"Subject: held\r\n\r\nbad things\r\n"
    server.house.hold("held1", held)
    client = server.imap("boss")
    assert {"Quarantine/Held", "Quarantine/Infected", "Quarantine/Denied"} <= folders(client)

    count = messages_seen(client, "Quarantine/Held")
    assert fetch(client, count) == held
    assert client.append("Quarantine/Held", None, None, b"x: y\r\n\r\n")[0] == "NO"
    client.store("1:*", "+FLAGS", "\\Deleted")
    client.expunge()
    assert messages_seen(client, "Quarantine/Held") == count
    assert client.create("Quarantine/Mine")[0] == "NO"
    assert client.copy("1", "Quarantine/Denied")[0] == "NO"
    assert client.rename("Quarantine/Held", "Quarantine/Mine")[0] == "NO"
    assert client.delete("Quarantine/Held")[0] == "NO"
    client.shutdown()  # 2.3 ends the session of one who tried to delete the folder he had open

    assert messages_seen(server.imap("boss"), "Quarantine/Held") == count
    assert list((server.house.directory / "quarantine" / ".Held").glob("*/*Qheld1*"))


def test_an_ordinary_user_does_not_see_the_quarantine(server):
    client = server.imap("bob")

    assert not any(name.startswith("Quarantine") for name in folders(client))
    for folder in ("Quarantine", "Quarantine/Held", "Quarantine/INBOX"):
        assert client.select(folder)[0] == "NO"
        assert client.status(folder, "(MESSAGES)")[0] == "NO"
    assert client.create("Quarantine/Mine")[0] == "NO"
    client.logout()


def test_the_quarantine_s_directory_gets_no_seen_flags(server):
    server.house.hold("seen1", b"Subject: seen\r\n\r\n", folder=".Denied")
    client = server.imap("boss")
    number = messages_seen(client, "Quarantine/Denied")
    client.store(str(number), "+FLAGS", "\\Seen")
    client.logout()

    [path] = (server.house.directory / "quarantine" / ".Denied").glob("*/*Qseen1*")
    assert not path.name.endswith("S")


def test_path_tricks_in_login_names_are_refused(server):
    with pytest.raises(imaplib.IMAP4.error):
        server.imap("../anna")

    names = {path.name for path in (server.house.directory / "mailboxes").iterdir()}
    assert names <= {"anna", "bob", "boss", "newcomer", *(f"user{number}" for number in range(5))}


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
        *("dovecot", "doveconf"),
    }


def test_status_says_what_runs(server):
    status = server.access.status()

    assert status["state"] == "running"
    assert status["problem"] == ""
    assert status["version"] in ("2.3", "2.4")
    assert server.metric("server_running") == 1
