package harness

import (
	"crypto/x509"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
)

// User is a user of the demo, or of the provider that StartProvider runs.
type User struct {
	Email      string   `json:"email"`
	Password   string   `json:"password"`
	TOTPSecret string   `json:"totp_secret"`
	Roles      []string `json:"roles"`
}

// Demo is a running threshold-demo. The fields with a JSON name come from its demo.json.
type Demo struct {
	CAFile string `json:"ca_file"`
	Users  []User `json:"users"`
	Login  string `json:"login"`

	Proxy   string // the address of its proxy
	Node    string // the name of its node
	Dir     string // its data folder
	Process *Process
}

// StartDemo runs threshold-demo on a free port, with its data in a temporary folder, until the test ends.
func StartDemo(t testing.TB) *Demo {
	t.Helper()
	d := &Demo{Dir: t.TempDir(), Proxy: "127.0.0.1:0"}
	d.Restart(t)
	return d
}

// Restart starts the demo again after its process has ended, with the same data and address.
func (d *Demo) Restart(t testing.TB) {
	t.Helper()
	d.Process = Start(t, nil, Bin(t, "threshold-demo"), "--listen", d.Proxy, "--data", d.Dir)
	d.Process.Line("Ready")
	b, err := os.ReadFile(filepath.Join(d.Dir, "demo.json"))
	if err != nil {
		t.Fatal(err)
	}
	var facts struct {
		*Demo
		Proxies []struct{ Address string }
		Nodes   []struct{ Name string }
	}
	facts.Demo = d
	if err := json.Unmarshal(b, &facts); err != nil || len(facts.Proxies) == 0 || len(facts.Nodes) == 0 {
		t.Fatalf("got %s (%v), want a proxy and a node", b, err)
	}
	d.Proxy, d.Node = facts.Proxies[0].Address, facts.Nodes[0].Name
}

// Alice may log in to the current account.
func (d *Demo) Alice() User { return d.Users[0] }

// Bob may list nodes, but not log in to any.
func (d *Demo) Bob() User { return d.Users[1] }

// Roots are the certificates that a browser must trust to open the demo's pages.
func (d *Demo) Roots(t testing.TB) *x509.CertPool { return roots(t, d.CAFile) }

func roots(t testing.TB, file string) *x509.CertPool {
	t.Helper()
	pem, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		t.Fatalf("%s has no certificate", file)
	}
	return pool
}
