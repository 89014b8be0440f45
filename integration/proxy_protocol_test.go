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

// balancer is where HAProxy connects to the proxy from in these stories; people come from 127.0.0.1.
const balancer = "127.0.0.2"

// Behind a balancer that passes TCP on, everybody keeps their address, by either version of the PROXY
// protocol. Only the balancer is believed, and it must speak.
func TestUsersKeepTheirAddressBehindABalancer(t *testing.T) {
	listen := harness.FreeAddr(t, "127.0.0.1")
	fronts := map[string]string{
		"send-proxy":                            harness.FreeAddr(t, "127.0.0.3"),
		"send-proxy-v2 proxy-v2-options crc32c": harness.FreeAddr(t, "127.0.0.3"),
	}
	var public []string
	cfg := "global\n  maxconn 200\ndefaults\n  mode tcp\n  timeout connect 5s\n  timeout client 60s\n  timeout server 60s\n"
	for how, addr := range fronts {
		public = append(public, fmt.Sprintf("%q", addr))
		cfg += fmt.Sprintf(
			"listen l%d\n  bind %s\n  server s %s source %s check inter 500ms %s\n",
			len(public),
			addr,
			listen,
			balancer,
			how,
		)
	}
	dir := t.TempDir()
	provider := harness.StartProvider(
		t,
		"127.0.0.1",
		strings.Trim(public[0], `"`),
		strings.Trim(public[1], `"`),
	)
	harness.Start(t, nil, "haproxy", "-db", "-f", harness.WriteFile(t, dir, "haproxy.cfg", cfg))
	s := harness.StartServerFrom(
		t,
		dir,
		listen,
		harness.Bootstrap(t, provider, filepath.Join(dir, "seal.key")),
		"inner",
		"public: ["+strings.Join(public, ", ")+"]",
		"balancers: ["+balancer+"/32]",
		"proxy_protocol: true",
	)
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
		{"the balancer with a header", balancer, claim + "SSH-2.0-x\r\n", true},
		{"the balancer without one", balancer, "SSH-2.0-x\r\n", false},
		{"somebody else with a header", "127.0.0.4", claim + "SSH-2.0-x\r\n", false},
		{"somebody else", "127.0.0.4", "SSH-2.0-x\r\n", true},
	} {
		if got := banner(t, tt.from, listen, tt.first); strings.HasPrefix(
			got,
			"SSH-2.0-Threshold",
		) != tt.served {
			t.Errorf("%s: got %q, want served %v", tt.name, got, tt.served)
		}
	}
}

// banner dials from an address of this machine's, sends the words and returns what comes first.
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
