package tcpauth

import (
	"strconv"
	"strings"

	"switchyard/lookup/internal/authent"
)

// The answer to version names the product, its version and the extensions
// that this server knows. An old client never looks at it.
const (
	product         = "switchyard"
	extEncoded      = "encoded" // xcheck and xset
	extTagged       = "tagged"  // many requests on one connection
	extFeed         = "feed"    // a stream of changes
	extSCRAM        = "scram"   // xkeys and xkeymechs, on this connection
	protocolVersion = 1
)

// versionReply has the extensions, and behind them words in the form
// name=value that say how the server is, for people.
func versionReply(version string, extensions, state []string) authent.Reply {
	words := []string{product, cleanVersion(version), strconv.Itoa(protocolVersion)}
	words = append(words, extensions...)
	for _, w := range state {
		if authent.Carriable("", w, true) == nil {
			words = append(words, w)
		}
	}
	return authent.Reply{Kind: authent.OK, Text: strings.Join(words, " ")}
}

// cleanVersion makes a version one word.
func cleanVersion(v string) string {
	if v == "" || authent.Carriable("", v, true) != nil || len(v) > 100 {
		return "unknown"
	}
	return v
}

// extensions is what a server told about itself.
type extensions struct {
	version string // its whole answer to version
	encoded bool
	tagged  bool
	feed    bool
	scram   bool
}

func parseVersion(text string) extensions {
	ext := extensions{version: text}
	word := strings.Split(text, " ")
	if len(word) < 3 || word[0] != product {
		return ext
	}
	for _, w := range word[3:] {
		switch w {
		case extEncoded:
			ext.encoded = true
		case extTagged:
			ext.tagged = true
		case extFeed:
			ext.feed = true
		case extSCRAM:
			ext.scram = true
		}
	}
	return ext
}
