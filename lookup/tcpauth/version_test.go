package tcpauth

import "testing"

// TestVersion: what a server says about itself is understood, and what others say
// is not mistaken for it.
func TestVersion(t *testing.T) {
	if ext := parseVersion(versionReply("1.0 beta", []string{extEncoded, extFeed}, []string{"behind=3", "two words"}).Text); !ext.encoded || !ext.feed || ext.tagged || ext.scram || ext.version != "switchyard unknown 1 encoded feed behind=3" {
		t.Errorf("got %+v", ext)
	}
	for _, text := range []string{"", "NWAuth 4.0g encoded", "switchyard", "switchyard 1", "switchyard 1.0 1 xencoded"} {
		if parseVersion(text).encoded {
			t.Errorf("%q: took it for a server that knows xcheck", text)
		}
	}
}
