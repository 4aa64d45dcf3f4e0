package sieve

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// differ lists scripts on which the two do not agree, and why.
var differ = map[string]string{
	`require "environment"; if environment :is "location" "MDA" { discard; }`:                                           "Pigeonhole's test tool says MS",
	`require "mailbox"; if mailboxexists ["Work","INBOX"] { discard; }`:                                                 "the mailboxes are ours",
	`require ["fileinto","special-use"]; fileinto :specialuse "\\Junk" "x";`:                                            "the mailboxes are ours",
	`require "special-use"; if allof (specialuse_exists "\\Junk", not specialuse_exists "Other" "\\Junk") { discard; }`: "the mailboxes are ours",
	`require ["date","index"]; if date :index 1 :last :originalzone "received" "second" "31" { discard; }`:              "Pigeonhole 0.5.19 finds nothing with :index and :originalzone together, and does with each alone",
	`require "duplicate"; if duplicate :uniqueid "old" { discard; }`:                                                    "what was seen is ours",
	`require "ihave"; if ihave "variables" { set "a" "b"; discard; }`:                                                   "Pigeonhole enables no variables behind ihave",
}

// TestBesidePigeonhole runs the scripts of TestScripts through Dovecot's own
// sieve-test and compares what both do.
func TestBesidePigeonhole(t *testing.T) {
	tool, err := exec.LookPath("sieve-test")
	if err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal("sieve-test is missing: install dovecot-sieve")
		}
		t.Skip("sieve-test is not installed")
	}
	dir := t.TempDir()
	// The tool drops its privileges.
	for d := dir; d != os.TempDir() && len(d) > 4; d = filepath.Dir(d) {
		if err := os.Chmod(d, 0o777); err != nil {
			t.Fatal(err)
		}
	}
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o666); err != nil {
			t.Fatal(err)
		}
		return path
	}
	conf := write("dovecot.conf", fmt.Sprintf(`mail_uid = nobody
mail_gid = nogroup
first_valid_uid = 1
mail_location = maildir:%s/mail
log_path = /dev/stderr
plugin {
  sieve_extensions = +editheader +imap4flags +special-use +vacation-seconds
  sieve_duplicate_period = 1h
}
`, dir))
	mail := write("mail.eml", sample)
	m := mailOf(t, sample)
	compared := 0
	for i, c := range scriptCases() {
		if differ[c.script] != "" || strings.Contains(c.script, "currentdate") {
			continue
		}
		script := write(fmt.Sprintf("s%d.sieve", i), c.script)
		out, err := exec.CommandContext(t.Context(), tool, "-c", conf, "-f", "coyote@desert.example.org", "-r", "ann+box@example.test", script, mail).CombinedOutput()
		if err != nil && strings.Contains(string(out), "unsupported") || strings.Contains(string(out), "unknown Sieve capability") {
			continue // an extension that it does not have
		}
		s, compileErr := Compile(c.script)
		if compileErr != nil {
			t.Fatal(compileErr)
		}
		compared++
		res := s.Run(m, Envelope{From: "coyote@desert.example.org", To: "ann+box@example.test"}, environment(), newWorld())
		got, want := summary(res), pigeonhole(string(out))
		if !slices.Equal(got, want) {
			t.Errorf("%s\nwe do    %q\nthey do  %q\n%s", c.script, got, want, out)
		}
	}
	if compared < 60 {
		t.Errorf("only %d scripts were compared", compared)
	}
}

// summary writes what is done, sorted.
func summary(res Result) (out []string) {
	store := func(mailbox string, flags []string) {
		flags = slices.Clone(flags)
		for i := range flags {
			flags[i] = strings.ToLower(flags[i])
		}
		slices.Sort(flags)
		out = append(out, strings.TrimSpace(strings.ToLower("store "+mailbox+" "+strings.Join(flags, " "))))
	}
	for _, a := range res.Actions {
		switch a := a.(type) {
		case Keep:
			store("INBOX", a.Flags)
		case FileInto:
			store(a.Mailbox, a.Flags)
		case Redirect:
			out = append(out, "redirect "+strings.ToLower(a.Address))
		case Reject:
			out = append(out, "reject")
		case Vacation:
			out = append(out, "vacation")
		}
	}
	slices.Sort(out)
	return out
}

var (
	storeLine    = regexp.MustCompile(`^ \* store message in folder: (.*)$`)
	flagsLine    = regexp.MustCompile(`^ +\+ add IMAP flags: ?(.*)$`)
	redirectLine = regexp.MustCompile(`^ \* redirect message to: <(.*)>$`)
)

// pigeonhole reads what sieve-test prints.
func pigeonhole(text string) (out []string) {
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\n")
		switch {
		case storeLine.MatchString(line):
			out = append(out, strings.ToLower("store "+storeLine.FindStringSubmatch(line)[1]))
		case flagsLine.MatchString(line):
			flags := strings.Fields(strings.ToLower(flagsLine.FindStringSubmatch(line)[1]))
			slices.Sort(flags)
			out[len(out)-1] = strings.TrimSpace(out[len(out)-1] + " " + strings.Join(flags, " "))
		case redirectLine.MatchString(line):
			out = append(out, strings.ToLower("redirect "+redirectLine.FindStringSubmatch(line)[1]))
		case strings.HasPrefix(line, " * reject message"), strings.HasPrefix(line, " * ereject message"):
			out = append(out, "reject")
		case strings.Contains(line, "resolved with successful implicit keep"):
			out = append(out, "store inbox")
		case strings.HasPrefix(line, " * send vacation"):
			out = append(out, "vacation")
		}
	}
	slices.Sort(out)
	return out
}
