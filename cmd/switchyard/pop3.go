package main

import (
	"bytes"
	"fmt"
	"io"
	"net/textproto"
	"strconv"
	"strings"
)

// readMaildrop logs in by POP3 and retrieves every message.
func readMaildrop(conn io.ReadWriteCloser, user, password string) ([][]byte, error) {
	c := textproto.NewConn(conn)
	defer c.Close()
	if _, err := popReply(c, ""); err != nil {
		return nil, fmt.Errorf("greeting: %w", err)
	}
	if _, err := popReply(c, "USER "+user); err != nil {
		return nil, fmt.Errorf("login: %w", err)
	}
	if _, err := popReply(c, "PASS "+password); err != nil {
		return nil, fmt.Errorf("login: %w", err)
	}
	stat, err := popReply(c, "STAT")
	if err != nil {
		return nil, err
	}
	count, _, _ := strings.Cut(stat, " ")
	n, err := strconv.Atoi(count)
	if err != nil {
		return nil, fmt.Errorf("STAT answered %q", stat)
	}
	var out [][]byte
	for i := range n {
		if _, err := popReply(c, fmt.Sprintf("RETR %d", i+1)); err != nil {
			return nil, err
		}
		body, err := io.ReadAll(c.DotReader())
		if err != nil {
			return nil, err
		}
		out = append(out, bytes.ReplaceAll(body, []byte("\n"), []byte("\r\n")))
	}
	_, err = popReply(c, "QUIT")
	return out, err
}

// popReply sends a command, unless it is empty, and reads the answer's first
// line; "-ERR" is an error.
func popReply(c *textproto.Conn, command string) (string, error) {
	if command != "" {
		if err := c.PrintfLine("%s", command); err != nil {
			return "", err
		}
	}
	line, err := c.ReadLine()
	if err != nil {
		return "", err
	}
	if text, ok := strings.CutPrefix(line, "+OK"); ok {
		return strings.TrimSpace(text), nil
	}
	return "", fmt.Errorf("%s answered %q", strings.Fields(command + " greeting")[0], line)
}
