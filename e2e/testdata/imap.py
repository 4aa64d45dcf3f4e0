"""imaplib: append, fetch, search, flags, copy, expunge."""

import imaplib

from common import check, context, how, host, other, password, port, timeout, user

if how == "tls":
    m = imaplib.IMAP4_SSL(host, port, ssl_context=context, timeout=timeout)
else:
    m = imaplib.IMAP4(host, port, timeout=timeout)
    if how == "starttls":
        m.starttls(context)

try:
    m.login(user, "wrong")
    check(False, "a wrong password was taken")
except imaplib.IMAP4.error as e:
    check("AUTHENTICATIONFAILED" in str(e), f"wrong password: {e}")


def ok(answer, what):
    check(answer[0] == "OK", f"{what}: {answer}")
    return answer[1]


m.login(user, password)
ok(m.select("INBOX"), "select")
text = b"Subject: From imaplib\r\n\r\nGr\xc3\xbc\xc3\x9fe\r\n"
for i in range(3):
    ok(m.append("INBOX", r"(\Flagged)" if i else None, imaplib.Time2Internaldate(1772532000), text), "append")
check(ok(m.search(None, "FLAGGED"), "search") == [b"2 3"], "search finds the flagged")
data = ok(m.fetch("1:3", "(UID FLAGS RFC822.SIZE BODY.PEEK[])"), "fetch")
check([part[1] for part in data if isinstance(part, tuple)] == [text] * 3, "the bodies are the same")
ok(m.create("Work"), "create")
ok(m.subscribe("Work"), "subscribe")
check(any(b"Work" in line for line in ok(m.lsub(), "lsub")), "the subscription is there")
ok(m.copy("1:2", "Work"), "copy")
ok(m.store("3", "+FLAGS.SILENT", r"(\Deleted)"), "store")
check(ok(m.expunge(), "expunge") == [b"3"], "expunge tells the number")
check(b"MESSAGES 2" in ok(m.status("Work", "(MESSAGES UIDNEXT)"), "status")[0], "status of the copy")
ok(m.rename("Work", "Done"), "rename")
ok(m.delete("Done"), "delete")
m.close()
check(m.logout()[0] == "BYE", "logout")

m = imaplib.IMAP4_SSL(host, port, ssl_context=context, timeout=timeout) if how == "tls" else None
if m is not None:
    # The same login by SASL, and a message of a megabyte.
    m.authenticate("PLAIN", lambda _: f"\0{user}\0{password}".encode())
    big = b"Subject: big\r\n\r\n" + b"0123456789abcdef" * 62 * 1000 + b"\r\n"
    ok(m.append("INBOX", None, None, big), "append a big message")
    ok(m.select("INBOX", readonly=True), "examine")
    data = ok(m.fetch("3", "(BODY.PEEK[])"), "fetch the big message")
    check(data[0][1] == big, "the big message is the same")
    m.logout()
