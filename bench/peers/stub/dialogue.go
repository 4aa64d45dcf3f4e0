package stub

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"
)

// bulkMessage is the size of the messages that the stub's IMAP server has; as
// many as are asked for.
const bulkMessage = 1 << 20

const imapCapabilities = "IMAP4rev1 LITERAL+ SASL-IR ID IDLE UIDPLUS NAMESPACE AUTH=PLAIN"

func (c *session) imap() error {
	c.say("* OK [CAPABILITY " + imapCapabilities + "] ready")
	for {
		line, err := c.command()
		if err != nil {
			return err
		}
		tag, rest, _ := strings.Cut(line, " ")
		verb, args, _ := strings.Cut(rest, " ")
		switch strings.ToUpper(verb) {
		case "ID":
			c.say("* ID NIL", tag+" OK done")
		case "CAPABILITY":
			c.say("* CAPABILITY "+imapCapabilities, tag+" OK done")
		case "AUTHENTICATE":
			if err := c.sasl(args, "+ "); err != nil {
				return err
			}
			c.say(tag + " OK [CAPABILITY " + imapCapabilities + "] logged in")
		case "LOGIN":
			c.say(tag + " OK [CAPABILITY " + imapCapabilities + "] logged in")
		case "FETCH":
			if err := c.fetch(args); err != nil {
				return err
			}
			c.say(tag + " OK done")
		case "LOGOUT":
			c.say("* BYE see you", tag+" OK done")
			return nil
		default:
			c.say(tag + " OK done")
		}
	}
}

// fetch sends the messages from 1 on, of FETCH 1:n BODY.PEEK[].
func (c *session) fetch(args string) error {
	set, _, _ := strings.Cut(args, " ")
	_, last, _ := strings.Cut(set, ":")
	n, err := strconv.Atoi(last)
	if err != nil {
		return err
	}
	body := bytes.Repeat([]byte("Sixty-two letters and two more make a line of this message. \r\n"), bulkMessage/62+1)[:bulkMessage]
	for i := range n {
		fmt.Fprintf(c, "* %d FETCH (BODY[] {%d}\r\n", i+1, len(body))
		if err := c.Flush(); err != nil {
			return err
		}
		if _, err := c.conn.Write(body); err != nil {
			return err
		}
		c.say(")")
	}
	return nil
}

func (c *session) pop3() error {
	c.say("+OK [XCLIENT] ready")
	for {
		line, err := c.line()
		if err != nil {
			return err
		}
		verb, args, _ := strings.Cut(line, " ")
		switch strings.ToUpper(verb) {
		case "CAPA":
			c.say("+OK", "TOP", "UIDL", "RESP-CODES", "PIPELINING", "USER", "SASL PLAIN", ".")
		case "AUTH":
			if err := c.sasl(args, "+ "); err != nil {
				return err
			}
			c.say("+OK logged in")
		case "STAT":
			c.say("+OK 0 0")
		case "QUIT":
			c.say("+OK bye")
			return nil
		default:
			c.say("+OK")
		}
	}
}

// smtp speaks submission or LMTP.
func (c *session) smtp(lmtp bool) error {
	c.say("220 stub ready")
	recipients := 0
	for {
		line, err := c.line()
		if err != nil {
			return err
		}
		verb, args, _ := strings.Cut(line, " ")
		switch strings.ToUpper(verb) {
		case "EHLO", "LHLO":
			c.say("250-stub", "250-PIPELINING", "250-SIZE 52428800", "250-8BITMIME", "250-ENHANCEDSTATUSCODES",
				"250-XCLIENT NAME ADDR PORT PROTO HELO LOGIN DESTADDR DESTPORT SESSION TTL", "250-XPIPELOGIN", "250 AUTH PLAIN LOGIN")
		case "XCLIENT":
			c.say("220 stub ready")
		case "AUTH":
			if err := c.sasl(args, "334 "); err != nil {
				return err
			}
			c.say("235 2.7.0 logged in")
		case "MAIL", "RSET":
			recipients = 0
			c.say("250 2.1.0 OK")
		case "RCPT":
			recipients++
			c.say("250 2.1.5 OK")
		case "DATA":
			c.say("354 go on")
			if err := c.message(); err != nil {
				return err
			}
			if !lmtp {
				recipients = 1
			}
			for range recipients {
				c.say("250 2.0.0 taken")
			}
		case "QUIT":
			c.say("221 2.0.0 bye")
			return nil
		default:
			c.say("250 2.0.0 OK")
		}
	}
}

// message reads up to the line with a dot.
func (c *session) message() error {
	for {
		if line, err := c.line(); err != nil || line == "." {
			return err
		}
	}
}
