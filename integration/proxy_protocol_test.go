//go:build integration

package integration

import (
	"fmt"
	"io"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/threshold-access/threshold/integration/harness"
)

// balancer is the address from which HAProxy connects to the proxy. Users connect from 127.0.0.1.
const balancer = "127.0.0.2"

// Behind a TCP load balancer every user keeps their address, with both versions of the PROXY protocol. The
// proxy accepts the header from the balancer only, and requires it there.
func TestUsersKeepTheirAddressBehindABalancer(t *testing.T) {
	listen := harness.FreeAddr(t, "127.0.0.1")
	fronts := map[string]string{
		"send-proxy":                            harness.FreeAddr(t, "127.0.0.3"),
		"send-proxy-v2 proxy-v2-options crc32c": harness.FreeAddr(t, "127.0.0.3"),
	}
	var public []string
	cfg := `global
  maxconn 200
defaults
  mode tcp
  timeout connect 5s
  timeout client 60s
  timeout server 60s
`
	for how, addr := range fronts {
		public = append(public, addr)
		cfg += fmt.Sprintf("listen l%d\n  bind %s\n", len(public), addr)
		cfg += fmt.Sprintf("  server s %s source %s check inter 500ms %s\n", listen, balancer, how)
	}
	dir := t.TempDir()
	provider := harness.StartProvider(t, "127.0.0.1", public...)
	harness.Start(t, nil, "haproxy", "-db", "-f", harness.WriteFile(t, dir, "haproxy.cfg", cfg))
	s := harness.StartServerFrom(t, dir, listen,
		harness.Bootstrap(t, provider, filepath.Join(dir, "seal.key")), "inner",
		`public: ["`+strings.Join(public, `", "`)+`"]`,
		"balancers: ["+balancer+"/32]",
		"proxy_protocol: true")
	alice := harness.Alice()
	for how, addr := range fronts {
		c := harness.NewClient(t)
		s.Proxy = addr
		if alice.TOTPSecret == "" {
			alice = c.FirstLogin(s, alice)
		} else {
			c.LoginAt(addr, s, alice)
		}
		if got := c.Tsh("ssh", "inner", "echo", "$SSH_CLIENT").OK(t); !strings.HasPrefix(got, "127.0.0.1 ") {
			t.Errorf("%s: got the session from %q, want from the client's 127.0.0.1", how, got)
		}
	}

	const claim = "PROXY TCP4 203.0.113.9 198.51.100.1 40000 443\r\n"
	for _, tt := range []struct {
		name, from, first string
		served            bool
	}{
		{"the balancer with the header", balancer, claim + "SSH-2.0-x\r\n", true},
		{"the balancer without the header", balancer, "SSH-2.0-x\r\n", false},
		{"another address with the header", "127.0.0.4", claim + "SSH-2.0-x\r\n", false},
		{"another address without the header", "127.0.0.4", "SSH-2.0-x\r\n", true},
	} {
		got := banner(t, tt.from, listen, tt.first)
		if served := strings.HasPrefix(got, "SSH-2.0-Threshold"); served != tt.served {
			t.Errorf("%s: got %q, want served %v", tt.name, got, tt.served)
		}
	}
}

// banner connects from an address of this machine, sends the words and returns the first answer.
func banner(t *testing.T, from, to, words string) string {
	t.Helper()
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
	conn, err := d.DialContext(t.Context(), "tcp", to)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, words); err != nil {
		t.Fatal(err)
	}
	_ = conn.SetReadDeadline(time.Now().Add(5 * time.Second))
	b := make([]byte, 64)
	n, _ := conn.Read(b)
	return string(b[:n])
}
