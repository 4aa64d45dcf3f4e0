"""smtplib: submission to oneself and to a user of another backend."""

import email.message
import smtplib

from common import check, context, how, host, other, password, port, timeout, user

if how == "tls":
    m = smtplib.SMTP_SSL(host, port, timeout=timeout, context=context)
else:
    m = smtplib.SMTP(host, port, timeout=timeout)
    if how == "starttls":
        m.starttls(context=context)

m.ehlo()
check(m.has_extn("auth"), "AUTH is offered")
try:
    m.sendmail(user, [other], "Subject: no\r\n\r\n")
    check(False, "mail was taken without a login")
except smtplib.SMTPSenderRefused as e:
    check(e.smtp_code == 530, f"without a login: {e}")
m.rset()
try:
    m.login(user, "wrong")
    check(False, "a wrong password was taken")
except smtplib.SMTPAuthenticationError as e:
    check(e.smtp_code == 535, f"wrong password: {e}")
m.login(user, password)
for i in range(2):
    letter = email.message.EmailMessage()
    letter["From"], letter["To"] = user, f"{user}, {other}"
    letter["Subject"] = f"From Python {i}"
    letter["Message-ID"] = f"<{i}-{how}-{user}>"
    letter.set_content("Grüße aus Python\n.\n..\n" + "x" * 900 + "\n")
    letter.add_attachment(bytes(range(256)) * 100, maintype="application", subtype="octet-stream", filename="all.bin")
    check(m.send_message(letter) == {}, "all recipients are taken")
try:
    m.sendmail(user, ["nobody-at-all@example.test"], "Subject: x\r\n\r\n")
except smtplib.SMTPRecipientsRefused as e:
    check(e.recipients["nobody-at-all@example.test"][0] == 550, f"unknown recipient: {e}")
else:
    check(False, "an unknown recipient was taken")
m.quit()
