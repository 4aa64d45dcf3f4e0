"""poplib: list, retrieve, top, uidl, delete, reset."""

import poplib

from common import check, context, how, host, password, port, timeout, user

if how == "tls":
    m = poplib.POP3_SSL(host, port, context=context, timeout=timeout)
else:
    m = poplib.POP3(host, port, timeout=timeout)
    if how == "starttls":
        m.stls(context)

try:
    m.user(user)
    m.pass_("wrong")
    check(False, "a wrong password was taken")
except poplib.error_proto as e:
    check(b"[AUTH]" in e.args[0], f"wrong password: {e}")

m.user(user)
m.pass_(password)
check("UIDL" in m.capa() and "TOP" in m.capa(), "UIDL and TOP are offered")
count, size = m.stat()
check(count == 3, f"{count} messages, want 3")
listed = m.list()[1]
check(sum(int(line.split()[1]) for line in listed) == size, "LIST and STAT agree")
uids = [line.split()[1] for line in m.uidl()[1]]
check(len(set(uids)) == 3, "the UIDs differ")
for i in range(1, 4):
    body = b"\r\n".join(m.retr(i)[1]) + b"\r\n"
    check(len(body) == int(listed[i - 1].split()[1]), "RETR and LIST agree")
    check(b"Subject: For Python\r\n" in body, "it is the message")
top = m.top(1, 0)[1]
check(top[-1] == b"" and b"Subject: For Python" in top, "TOP shows the header")
m.dele(1)
m.rset()
m.dele(2)
check(m.stat()[0] == 2, "a deleted message is not counted")
m.quit()
