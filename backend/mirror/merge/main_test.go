package merge

import (
	"flag"
	"os"
	"testing"
)

// TestMain makes 20,000 checks of a property the least, unless the command line
// names another number.
func TestMain(m *testing.M) {
	_ = flag.Set("rapid.checks", "20000")
	flag.Parse()
	os.Exit(m.Run())
}
