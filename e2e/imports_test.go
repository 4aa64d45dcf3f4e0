package e2e

import (
	"bytes"
	"encoding/json"
	"io"
	"os/exec"
	"path"
	"slices"
	"strings"
	"testing"
)

const module = "switchyard"

// pkg is what go list tells of a package.
type pkg struct {
	ImportPath   string
	Standard     bool
	Imports      []string
	TestImports  []string
	XTestImports []string
	Deps         []string
	Module       *struct{ Path string }
}

// listPackages asks the go command about packages.
func listPackages(t *testing.T, args ...string) map[string]pkg {
	t.Helper()
	cmd := exec.Command("go", append([]string{"list", "-json=ImportPath,Standard,Imports,TestImports,XTestImports,Deps,Module"}, args...)...)
	cmd.Dir = ".."
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, &stderr)
	}
	all := make(map[string]pkg)
	for d := json.NewDecoder(bytes.NewReader(out)); ; {
		var p pkg
		if err := d.Decode(&p); err == io.EOF {
			return all
		} else if err != nil {
			t.Fatal(err)
		}
		all[p.ImportPath] = p
	}
}

// The layers, from the bottom. A package imports what lies lower.
const (
	mechanics  = iota // internal/…: no mail policy
	vocabulary        // the nouns
	grammar           // what two mechanisms share
	mechanism
	protocol
	command
)

// layer is the height of a package of ours.
func layer(p string) int {
	switch {
	case strings.HasPrefix(p, "cmd/"), p == "e2e", p == "internal/harness", strings.HasSuffix(p, "test"):
		return command
	case p == "conf", strings.HasPrefix(p, "backend/imap/"),
		slices.Contains([]string{"router/imap", "router/pop", "router/smtp", "router/sieve", "router/console", "backend/imap", "backend/pop", "backend/smtp", "backend/managesieve"}, p):
		return protocol
	case p == "lookup" || p == "backend":
		return vocabulary
	case strings.HasPrefix(p, "lookup/internal/"):
		return grammar
	case strings.HasPrefix(p, "internal/"):
		return mechanics
	default:
		return mechanism
	}
}

// sideways lists the imports between packages of one layer that are meant,
// with the reason. A package may import its own children without one.
var sideways = map[string]string{
	"backend/mirror/merge backend/effect":            "the log's clock says which of two changes was later",
	"backend/store backend/effect":                   "the log's language, for the store now and the mirror later",
	"backend/store backend/effect/pack":              "one way of packing integers on disk",
	"backend/store/segment backend/effect/pack":      "one way of packing integers on disk",
	"backend/store/rows backend/effect":              "rows hold what effects say",
	"backend/store/rows backend/effect/pack":         "one way of packing integers on disk",
	"backend/store/rows backend/store/segment":       "a row says where in a segment a body lies",
	"backend/queue backend/access":                   "the queue delivers to those who live here, and the gate says who",
	"backend/imap/search backend/imap/syntax":        "criteria are read by the grammar",
	"backend/queue lookup/resolve":                   "recipients are resolved in one way, by proxies and backends alike",
	"router/sasl/token router/sasl":                  "tokens are one of the mechanisms",
	"lookup/internal/authent lookup/internal/netwin": "answers carry the records that files hold",
}

// TestImportsPointDown holds rules 1 to 3 of docs/architecture.md.
func TestImportsPointDown(t *testing.T) {
	for path, p := range listPackages(t, "./...") {
		from, ours := strings.CutPrefix(path, module+"/")
		if !ours {
			continue
		}
		for _, imported := range p.Imports {
			to, ours := strings.CutPrefix(imported, module+"/")
			if !ours {
				continue
			}
			family := layer(from) == mechanics || layer(from) == command || strings.HasPrefix(to, from+"/")
			if layer(to) > layer(from) || layer(to) == layer(from) && !family && sideways[from+" "+to] == "" {
				t.Errorf("%s imports %s: arrows point down, siblings do not import siblings", from, to)
			}
			if crosses(from, to) || crosses(to, from) {
				t.Errorf("%s imports %s: router and backend meet on the wire only, so that the tiers can be upgraded apart", from, to)
			}
			if to == "conf" && !strings.HasPrefix(from, "cmd/") {
				t.Errorf("%s imports conf: parts take Options, only commands read configuration", from)
			}
			if strings.HasPrefix(to, "cmd/") && !strings.HasPrefix(from, "cmd/") || to == "e2e" {
				t.Errorf("%s imports %s: nothing imports a command", from, to)
			}
		}
	}
}

func crosses(a, b string) bool {
	return (a == "router" || strings.HasPrefix(a, "router/")) && (b == "backend" || strings.HasPrefix(b, "backend/"))
}

// TestVocabularyIsPlain: the nouns depend on nothing that could change under
// them.
func TestVocabularyIsPlain(t *testing.T) {
	for path, p := range listPackages(t, "./lookup", "./backend") {
		for _, imported := range p.Imports {
			first, _, _ := strings.Cut(imported, "/")
			if strings.Contains(first, ".") {
				t.Errorf("%s imports %s: the vocabulary uses the standard library only", path, imported)
			}
		}
	}
}

// homes says which packages may import a third-party module, beside tests.
// Each module has one home where that can be.
var homes = map[string][]string{
	"github.com/armon/go-proxyproto":      {"router/admit"},
	"github.com/cockroachdb/pebble/v2":    {"backend/store", "backend/store/rows", "backend/store/segment", "backend/textindex"},
	"github.com/emersion/go-imap/v2":      {"backend/imap", "cmd/switchyard"},
	"github.com/emersion/go-message":      {"backend/queue", "internal/message"},
	"github.com/emersion/go-sasl":         {"backend/queue"},
	"github.com/emersion/go-smtp":         {"backend/queue", "cmd/switchyard"},
	"github.com/go-asn1-ber/asn1-ber":     {"lookup/ldap"},
	"github.com/go-ldap/ldap/v3":          {"lookup/ldap"},
	"github.com/hashicorp/golang-lru/v2":  {"lookup/cache"},
	"github.com/jackc/pgx/v5":             {"lookup/postgres"},
	"github.com/klauspost/compress":       {"backend/store/segment", "backend/imap/deflate"},
	"github.com/pelletier/go-toml/v2":     {"conf"},
	"github.com/prometheus/client_golang": {"internal/daemon", "router/console", "cmd/proxyd", "cmd/tcpauthd"},
	"github.com/sergeymakinen/go-crypt":   {"lookup/nwauth", "lookup/nwauth/hash"},
	"github.com/spf13/cobra":              {"cmd/switchyard"},
	"github.com/coreos/go-oidc/v3":        {"router/sasl/token"},
	"github.com/xdg-go/scram":             {"router/sasl"},
	"github.com/xdg-go/stringprep":        {"lookup/nwauth/hash"},
	"github.com/zeebo/xxh3":               {"backend/effect", "backend/store", "backend/store/segment"},
	"go.uber.org/zap":                     {"*"},
	"golang.org/x/crypto":                 {"lookup/nwauth", "lookup/nwauth/hash"},
	"golang.org/x/net":                    {"internal/smtpd"},
	"golang.org/x/sync":                   {"*"},
	"golang.org/x/sys":                    {"backend/store", "router/splice"},
	"golang.org/x/text":                   {"internal/message", "backend/store"},
}

// TestModulesStayHome holds rule 4.
func TestModulesStayHome(t *testing.T) {
	ours := listPackages(t, "./...")
	all := listPackages(t, "-deps", "./...")
	for importPath, p := range ours {
		from := strings.TrimPrefix(importPath, module+"/")
		if strings.HasSuffix(from, "test") {
			continue
		}
		for _, imported := range p.Imports {
			dep, ok := all[imported]
			if !ok || dep.Standard || dep.Module == nil || dep.Module.Path == module {
				continue
			}
			home, known := homes[dep.Module.Path]
			switch {
			case !known:
				t.Errorf("%s imports %s of module %s, which has no place in docs/architecture.md: say there why it is needed, then name its home here", from, imported, dep.Module.Path)
			case home[0] != "*" && !slices.Contains(home, from):
				t.Errorf("%s imports %s: module %s is imported from %v only", from, imported, dep.Module.Path, home)
			}
		}
	}
}

// TestDaemonsCarryNoTests holds rule 5.
func TestDaemonsCarryNoTests(t *testing.T) {
	for importPath, p := range listPackages(t, "./cmd/...") {
		if slices.Contains(p.Deps, "testing") {
			t.Errorf("%s links the testing package", importPath)
		}
	}
	for importPath, p := range listPackages(t, "./...") {
		if strings.HasSuffix(importPath, "test") {
			continue
		}
		for _, imported := range p.Imports {
			if base := path.Base(imported); strings.HasPrefix(imported, module+"/") && strings.HasSuffix(base, "test") {
				t.Errorf("%s imports %s: test packages are for tests", importPath, imported)
			}
		}
	}
}
