//go:build integration

package integration

import (
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/threshold-access/threshold/integration/harness"
)

// Bad input gets a clear error that says what to do next.
func TestEveryRefusalNamesTheNextStep(t *testing.T) {
	d := harness.StartDemo(t)
	alice := harness.NewClient(t)
	alice.Login(d, d.Alice())
	bob := harness.NewClient(t)
	bob.Login(d, d.Bob())

	t.Run("before login", func(t *testing.T) {
		harness.NewClient(t).Tsh("ssh", d.Node, "true").Refused(t, "not logged in", "tsh login")
	})
	t.Run("someone without any login sees the node and cannot enter", func(t *testing.T) {
		if out := bob.Tsh("ls").OK(t); !strings.Contains(out, d.Node) {
			t.Errorf("got %q, want the node", out)
		}
		bob.Tsh("ssh", d.Login+"@"+d.Node, "true").Refused(t)
	})
	t.Run("someone without the right cannot administer", func(t *testing.T) {
		bob.Tsh("get", "roles").Refused(t, "get on roles")
		bob.Tsh("token", "create", "--kind", "node").Refused(t)
		alice.Tsh("get", "roles").OK(t)
	})
	t.Run("an account the roles do not name", func(t *testing.T) {
		alice.Tsh("ssh", "nobody@"+d.Node, "true").Refused(t, "nobody")
	})
	t.Run("an unknown node", func(t *testing.T) {
		alice.Tsh("ssh", d.Login+"@nosuch", "true").Refused(t, "nosuch", "tsh ls")
	})
	t.Run("a wrong pin", func(t *testing.T) {
		c := harness.NewClient(t)
		pin := "sha256:" + strings.Repeat("ab", 32)
		r := c.StartLogin("--proxy", d.Proxy, "--pin", pin)
		refuseLogin(t, r, d, "pin")
	})
	t.Run("an unknown web certificate", func(t *testing.T) {
		harness.NewClient(t).
			Tsh("login", "--browser=none", "--proxy", d.Proxy).
			Refused(t, "certificate", "--ca-file")
	})
	t.Run("nobody there", func(t *testing.T) {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		addr := l.Addr().String()
		l.Close()
		harness.NewClient(t).
			Tsh("login", "--browser=none", "--proxy", addr, "--ca-file", d.CAFile).
			Refused(t, addr)
	})
	t.Run("a port in use", func(t *testing.T) {
		r := harness.Run(t, nil, nil, harness.Bin(t, "threshold-demo"), "--listen", d.Proxy)
		if r.Code == 0 || !strings.Contains(r.Stderr, "in use") || !strings.Contains(r.Stderr, "hint:") {
			t.Errorf("got %+v, want the port named and a hint", r)
		}
	})
	t.Run("a command line that cannot be meant", func(t *testing.T) {
		for _, args := range [][]string{{"threshold", "start", "--bogus"}, {"threshold", "start", "server.yaml"}, {"threshold", "bogus"},
			{"threshold-demo", "--bogus"}, {"threshold-demo", "bogus"}, {"threshold-node", "--bogus"}} {
			r := harness.Run(t, nil, nil, harness.Bin(t, args[0]), args[1:]...)
			if r.Code != 2 || strings.Count(r.Stderr, "\n") != 2 ||
				!strings.Contains(r.Stderr, args[0]+": error: ") ||
				!strings.Contains(r.Stderr, args[0]+": hint: run: ") {
				t.Errorf("%q: got %+v, want an error and a hint, and no more", args, r)
			}
		}
	})
	t.Run("bad configuration, all faults at once", func(t *testing.T) { badConfiguration(t) })
	t.Run("bad resources, all faults at once", func(t *testing.T) {
		file := filepath.Join(t.TempDir(), "role.yaml")
		bad := "kind: role\nversion: v1\nmetadata: {name: ops}\nspec:\n  allow:\n    - nodes: {env: prod}\n      loggins: [root]\n      actions: [shel]\n"
		if err := os.WriteFile(file, []byte(bad), 0o600); err != nil {
			t.Fatal(err)
		}
		alice.Tsh("apply", "-f", file).Refused(t, "loggins", "role.yaml:7")
	})
}

func badConfiguration(t *testing.T) {
	file := filepath.Join(t.TempDir(), "threshold.yaml")
	bad := "kind: server\nversion: v1\nspec:\n  data: /tmp/x\n  prxy: {}\n  proxy:\n    listen: 7\n    cert_file: a\n"
	if err := os.WriteFile(file, []byte(bad), 0o600); err != nil {
		t.Fatal(err)
	}
	r := harness.Run(t, nil, nil, harness.Bin(t, "threshold"), "start", "--config", file)
	for _, want := range []string{file + ":5", "prxy", file + ":6", "public", "hint:"} {
		if r.Code == 0 || !strings.Contains(r.Stderr, want) {
			t.Errorf("got %d %q, want %q in it", r.Code, r.Stderr, want)
		}
	}
}

// refuseLogin signs in for a tsh login that must fail, before or after the browser's part.
func refuseLogin(t *testing.T, p *harness.Process, d *harness.Demo, want string) {
	t.Helper()
	_ = p.Wait()
	if out := p.Output(); !strings.Contains(out, want) || !strings.Contains(out, "tsh: hint: ") {
		t.Errorf("got %q, want %q and a hint", out, want)
	}
}

// A wrong code, a used code, a page that was tampered with: the login goes on or ends with a clear page.
func TestTheLoginPagesSayWhatIsWrong(t *testing.T) {
	d := harness.StartDemo(t)
	alice := d.Alice()
	begin := func(t *testing.T) string {
		return harness.NewClient(t).StartLogin("--proxy", d.Proxy, "--ca-file", d.CAFile).Line("Open: ")
	}
	t.Run("wrong code, then used code, then a right one", func(t *testing.T) {
		first := harness.NewClient(t)
		used := harness.FreshCode(t, alice)
		p := first.StartLogin("--proxy", d.Proxy, "--ca-file", d.CAFile)
		page := harness.SignIn(t, d.Roots(t), p.Line("Open: "), alice.Email, alice.Password)
		page, err := page.Submit(t.Context(), map[string]string{"code": "000000"})
		if err != nil || !page.HasField("code") {
			t.Fatalf("got %v %v, want the factor page again", page, err)
		}
		if !strings.Contains(page.ByID("error"), "code") {
			t.Errorf("got %q, want the page to speak of the wrong code", page.Text())
		}
		if _, err = page.Submit(t.Context(), map[string]string{"code": used}); err != nil {
			t.Fatal(err)
		}
		if err := p.Wait(); err != nil {
			t.Fatalf("tsh login: %v %s", err, p.Output())
		}
		page = harness.SignIn(t, d.Roots(t), begin(t), alice.Email, alice.Password)
		if page, err = page.Submit(t.Context(), map[string]string{"code": used}); err != nil ||
			!strings.Contains(page.ByID("error"), "used") {
			t.Errorf("got %q, %v, want the page to say that the code was used", page.Text(), err)
		}
	})
	t.Run("unknown user", func(t *testing.T) {
		page := harness.SignIn(t, d.Roots(t), begin(t), "mallory@example.com", "x")
		if page.HasField("code") || !page.HasField("password") {
			t.Errorf("got %q, want the provider's form again", page.Text())
		}
	})
	t.Run("tampered state", func(t *testing.T) {
		address, err := url.Parse("https://" + d.Proxy + "/login/callback/demo?code=x&state=y")
		if err != nil {
			t.Fatal(err)
		}
		page := harness.Open(t, d.Roots(t), address.String())
		if page.Status < 400 || !strings.Contains(page.Text(), "tsh login") {
			t.Errorf("got %d %q, want a refusal that says how to start again", page.Status, page.Text())
		}
	})
}
