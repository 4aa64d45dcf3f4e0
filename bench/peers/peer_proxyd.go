package main

import (
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"switchyard/bench/peers/load"
)

// proxyd, as an operator would run it: accounts in a file, answers from the
// cache once a user has logged in, the proxy's own login at the backend with
// the client's identity in front of it. Sessions are logged at Info, which is
// switched off as with the others. GOMAXPROCS=1 is its one worker.
func proxyd() peer {
	return peer{
		name:    ours,
		title:   "Switchyard",
		version: func() (string, error) { return "of this tree", nil },
		start:   startProxyd,
	}
}

const proxydConfig = `[cluster]
domains = ["${domain}"]
default_domain = "${domain}"
default_backend = "stub"
proxy_secret = { file = "proxy.secret" }

[directory]
kind = "file"
[directory.file]
path = "accounts"

[[backend]]
name = "stub"
[[backend.node]]
tls = "off"
${backend_service} = "${stub}"

[proxyd]
hostname = "proxy.${domain}"
${certificate}
${deliverers}

[[proxyd.listen]]
protocol = "${service}"
address = "${address}"
tls = "${tls}"
${cleartext}
`

func startProxyd(b *bench, j job) (*running, error) {
	words := map[string]string{"domain": load.Domain, "tls": "off", "backend_service": j.service, "certificate": "", "cleartext": "", "deliverers": ""}
	if j.service == "lmtp" {
		words["deliverers"] = "[proxyd.lmtp]\nnetworks = [\"127.0.0.0/8\"]"
	} else {
		words["cleartext"] = "cleartext_login = true"
	}
	if j.tls {
		words["tls"] = "implicit"
		words["cleartext"] = ""
		words["certificate"] = fmt.Sprintf("certificate = { cert_file = %q, key_file = %q }", b.cert, b.key)
	}
	if err := os.WriteFile(filepath.Join(j.dir, "proxy.secret"), []byte("secret-of-the-proxies\n"), 0o600); err != nil {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(j.dir, "accounts"), []byte(accounts()), 0o600); err != nil {
		return nil, err
	}
	config, err := j.write("proxyd.toml", proxydConfig, words)
	if err != nil {
		return nil, err
	}
	p, err := startProcess(j.dir, b.o.proxyCore, []string{"GOMAXPROCS=1"}, b.o.proxyd, "-config", config, "-log-level", "warn")
	if err != nil {
		return nil, err
	}
	return &running{proxy: p}, nil
}

// accounts is a file of accounts with salted hashes.
func accounts() string {
	const salt = "bench-salt"
	sum := sha256.Sum256([]byte(load.Password + salt))
	hash := "{SSHA256}" + base64.StdEncoding.EncodeToString(append(sum[:], salt...))
	var out strings.Builder
	for i := range load.Users {
		fmt.Fprintf(&out, "%s:%s:tohost=\"stub\"\n", load.UserName(i), hash)
	}
	return out.String()
}
