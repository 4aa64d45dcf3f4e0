package e2e

import (
	"testing"

	"switchyard/internal/harness"
)

// TestPrograms runs real mail programs against one cluster, each with accounts
// of its own.
func TestPrograms(t *testing.T) {
	slow(t)
	c := start(t, harness.Spec{})
	for name, test := range map[string]func(*testing.T, *cluster){
		"curl":      testCurl,
		"swaks":     testSwaks,
		"mbsync":    testMbsync,
		"fetchmail": testFetchmail,
		"msmtp":     testMsmtp,
		"python":    testPython,
		"go-imap":   testGoIMAP,
		"go-smtp":   testGoSMTP,
		"dialogues": testDialogs,
	} {
		t.Run(name, func(t *testing.T) { test(t, c) })
	}
}
