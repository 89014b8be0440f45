package main

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"strings"

	"github.com/threshold-access/threshold/internal/config"
	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/identity"
)

// file is the server's configuration file.
type file struct {
	Kind    string `yaml:"kind" config:"required"`    // server
	Version string `yaml:"version" config:"required"` // v1
	Spec    spec   `yaml:"spec" config:"required"`
}

// spec names the parts this machine runs: those whose section is present.
type spec struct {
	// Data is the folder for everything the parts keep. It must not be shared with another server.
	Data  string     `yaml:"data" config:"required"`
	Auth  *authSpec  `yaml:"auth"`
	Proxy *proxySpec `yaml:"proxy"`
	Node  *nodeSpec  `yaml:"node"`
}

type authSpec struct {
	// Listen is the one auth port. Empty means 127.0.0.1:3025, for a proxy on the same machine.
	Listen string `yaml:"listen"`
	// Replica is this replica's name in the quorum. Empty means "auth-1".
	Replica string `yaml:"replica"`
}

type proxySpec struct {
	// Listen is the one public port. Empty means :443.
	Listen string `yaml:"listen"`
	// Public lists the addresses people type, host or host:port. At least one.
	Public []string `yaml:"public" config:"required"`
	// Auth is the auth port to talk to. Empty means the auth of this same server.
	Auth string `yaml:"auth"`
	// TokenFile holds the join token for the first start. Not needed beside an auth section.
	TokenFile string `yaml:"token_file"`
	// Name is the proxy's name in the cluster. Empty means this machine's host name.
	Name string `yaml:"name"`
	// CertFile and KeyFile are the public web certificate (PEM). Empty means the cluster's own, which browsers trust only when told to.
	CertFile string `yaml:"cert_file"`
	KeyFile  string `yaml:"key_file"`
}

type nodeSpec struct {
	// Proxies lists the public address of the cluster. Empty means the proxy of this same server.
	Proxies []string `yaml:"proxies"`
	// TokenFile holds the join token for the first start. Not needed beside an auth section.
	TokenFile string `yaml:"token_file"`
	// Name is the name this node wishes for. Empty means this machine's host name.
	Name   string            `yaml:"name"`
	Labels map[string]string `yaml:"labels"`
}

// Check finds what the types cannot say.
func (f file) Check(report func(path, format string, args ...any)) {
	if f.Kind != "" && f.Kind != "server" {
		report("kind", "is %q, a server's configuration has kind: server", f.Kind)
	}
	if f.Version != "" && f.Version != "v1" {
		report("version", "is %q, this program knows v1", f.Version)
	}
}

// Check finds what the types cannot say.
func (s spec) Check(report func(path, format string, args ...any)) {
	if s.Auth == nil && s.Proxy == nil && s.Node == nil {
		report("", "names no part to run: add auth, proxy or node")
	}
	if s.Proxy != nil {
		s.Proxy.check(s.Auth != nil, report)
	}
	if s.Node != nil {
		s.Node.check(s.Proxy != nil, report)
	}
}

func (p proxySpec) check(besideAuth bool, report func(path, format string, args ...any)) {
	if (p.CertFile == "") != (p.KeyFile == "") {
		report("proxy", "cert_file and key_file belong together")
	}
	if p.Auth == "" && !besideAuth {
		report("proxy", "needs auth, the address of an auth port, because this server runs no auth")
	}
	for i, a := range p.Public {
		if _, err := withPort(a); err != nil {
			report(fmt.Sprintf("proxy.public[%d]", i), "%v", err)
		}
	}
}

func (n nodeSpec) check(besideProxy bool, report func(path, format string, args ...any)) {
	if len(n.Proxies) == 0 && !besideProxy {
		report("node", "needs proxies, the cluster's public address, because this server runs no proxy")
	}
	if err := identity.Labels(n.Labels).Check(); err != nil {
		report("node.labels", "%v", err)
	}
}

const httpsPort = "443"

// withPort adds the HTTPS port to an address that has none.
func withPort(addr string) (string, error) {
	if host, port, err := net.SplitHostPort(addr); err == nil && host != "" && port != "" {
		return addr, nil
	}
	if addr == "" || strings.ContainsAny(addr, " /") {
		return "", fmt.Errorf("%q is no address: write host or host:port", addr)
	}
	return net.JoinHostPort(strings.Trim(addr, "[]"), httpsPort), nil
}

func readFile(name string) ([]byte, error) {
	b, err := os.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fault.Wrap(err, fault.NotFound, "threshold start", "there is no file "+name, "see docs/cli.md for what belongs in it")
	}
	return b, fault.Wrap(err, fault.Invalid, "threshold start", "cannot read "+name, "check the file's permissions")
}

func readConfig(name string) (spec, error) {
	b, err := readFile(name)
	if err != nil {
		return spec{}, err
	}
	var f file
	if err := config.Decode(name, b, &f); err != nil {
		return spec{}, err
	}
	return f.Spec, nil
}

// readToken reads a join token from a file, so that it never shows in a list of processes. No name gives no token.
func readToken(name string) (string, error) {
	if name == "" {
		return "", nil
	}
	b, err := readFile(name)
	return strings.TrimSpace(string(b)), err
}
