package ldap_test

import (
	"bytes"
	"crypto/sha1"
	"encoding/base64"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/go-ldap/ldap/v3"
	"github.com/google/go-cmp/cmp"

	"switchyard/lookup/lookuptest"
)

var update = flag.Bool("update", false, "write testdata/ldif/accounts.ldif anew")

// TestAccountsLDIF: the sample is the suite's accounts as entries.
func TestAccountsLDIF(t *testing.T) {
	path := "../../testdata/ldif/accounts.ldif"
	want := accountsLDIF()
	if *update {
		if err := os.WriteFile(path, want, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Errorf("%s is not what -update writes (-want +got):\n%s", path, diff)
	}
}

func accountsLDIF() []byte {
	b := &bytes.Buffer{}
	b.WriteString("# The accounts of lookup/lookuptest, in the project's own schema.\n" +
		"# Written by: go test ./lookup/ldap -run TestAccountsLDIF -update\n")
	entry(b, "dc=example,dc=test", "objectClass", "domain", "dc", "example")
	entry(b, base, "objectClass", "organizationalUnit", "ou", "people")
	for _, cn := range []string{serviceDN, limitedDN, blindDN, readerDN} {
		name := strings.TrimPrefix(strings.Split(cn, ",")[0], "cn=")
		entry(b, cn, "objectClass", "organizationalRole", "objectClass", "simpleSecurityObject", "cn", name,
			"userPassword", ssha(name, servicePass))
	}
	records := lookuptest.Accounts()
	slices.SortFunc(records, func(a, b lookuptest.Record) int { return strings.Compare(a.Name, b.Name) })
	for _, r := range records {
		local, _, _ := strings.Cut(r.Stored, "@")
		name := r.Attributes["displayname"]
		if name == "" {
			name = local
		}
		attributes := []string{
			"objectClass", "inetOrgPerson", "objectClass", "switchyardAccount",
			"cn", name, "sn", name, "swName", r.Stored, "userPassword", ssha(r.Name, r.Password),
		}
		add := func(label, value string) {
			if value != "" && value != "0" {
				attributes = append(attributes, label, value)
			}
		}
		if isASCII(r.Stored) {
			add("mail", r.Stored) // an IA5String
		}
		add("swHome", r.Home)
		add("swHomeGeneration", fmt.Sprint(r.Generation))
		add("swStatus", string(r.Status))
		add("swQuota", fmt.Sprint(r.Quota))
		for _, f := range r.Forwards {
			add("swForward", f)
		}
		add("displayName", r.Attributes["displayname"])
		add("description", r.Attributes["description"])
		entry(b, "swName="+ldap.EscapeDN(r.Stored)+","+base, attributes...)
	}
	return b.Bytes()
}

// ssha hashes a password with a salt that is always the same for a name, so
// that the file is.
func ssha(name, password string) string {
	salt := sha1.Sum([]byte("salt of " + name))
	sum := sha1.Sum(append([]byte(password), salt[:8]...))
	return "{SSHA}" + base64.StdEncoding.EncodeToString(append(sum[:], salt[:8]...))
}

// entry writes an entry of LDIF (RFC 2849).
func entry(b *bytes.Buffer, dn string, attributes ...string) {
	b.WriteByte('\n')
	value(b, "dn", dn)
	for i := 0; i < len(attributes); i += 2 {
		value(b, attributes[i], attributes[i+1])
	}
}

func value(b *bytes.Buffer, label, v string) {
	text := label + ": " + v
	if !isASCII(v) || strings.HasPrefix(v, " ") || strings.HasPrefix(v, ":") || strings.HasPrefix(v, "<") || strings.HasSuffix(v, " ") {
		text = label + ":: " + base64.StdEncoding.EncodeToString([]byte(v))
	}
	for len(text) > 76 {
		b.WriteString(text[:76] + "\n")
		text = " " + text[76:]
	}
	b.WriteString(text + "\n")
}

func isASCII(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r > '~' })
}

// TestSchemas: both forms of the schema load into slapd and say the same.
func TestSchemas(t *testing.T) {
	slaptest, slapadd := program(t, "slaptest"), program(t, "slapadd")
	var got [2]string
	for i, source := range []string{"switchyard.schema", "switchyard.ldif"} {
		path, err := filepath.Abs("../../deploy/ldap/" + source)
		if err != nil {
			t.Fatal(err)
		}
		dir := t.TempDir()
		out := filepath.Join(dir, "slapd.d")
		if err := os.Mkdir(out, 0o700); err != nil {
			t.Fatal(err)
		}
		var cmd *exec.Cmd
		if filepath.Ext(source) == ".schema" {
			conf := filepath.Join(dir, "slapd.conf")
			if err := os.WriteFile(conf, []byte("include /etc/ldap/schema/core.schema\ninclude "+path+"\n"), 0o600); err != nil {
				t.Fatal(err)
			}
			cmd = exec.Command(slaptest, "-f", conf, "-F", out)
		} else {
			top := "dn: cn=config\nobjectClass: olcGlobal\ncn: config\n\n" +
				"dn: cn=schema,cn=config\nobjectClass: olcSchemaConfig\ncn: schema\n\n" +
				"include: file:///etc/ldap/schema/core.ldif\n\ninclude: file://" + path + "\n"
			cmd = exec.Command(slapadd, "-n", "0", "-F", out)
			cmd.Stdin = strings.NewReader(top)
		}
		if text, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("load %s: %v\n%s", source, err, text)
		}
		files, err := filepath.Glob(filepath.Join(out, "cn=config", "cn=schema", "cn={*}switchyard.ldif"))
		if err != nil || len(files) != 1 {
			t.Fatalf("%s: got %q, %v, want one schema", source, files, err)
		}
		text, err := os.ReadFile(files[0])
		if err != nil {
			t.Fatal(err)
		}
		var kept []string
		for line := range strings.SplitSeq(strings.ReplaceAll(string(text), "\n ", ""), "\n") {
			if strings.HasPrefix(line, "olc") {
				kept = append(kept, strings.Join(strings.Fields(line), " "))
			}
		}
		got[i] = strings.Join(kept, "\n")
	}
	if diff := cmp.Diff(got[0], got[1]); diff != "" || !strings.Contains(got[0], "switchyardAccount") {
		t.Errorf("the schemas differ (-.schema +.ldif):\n%s", diff)
	}
}
