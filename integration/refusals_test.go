//go:build integration

package integration

import (
	"net"
	"net/url"
	"strings"
	"testing"

	"github.com/threshold-access/threshold/integration/harness"
)

// Users and administrators whose input is refused get an error that says what to do next.
func TestEveryRefusalNamesTheNextStep(t *testing.T) {
	d := harness.StartDemo(t)
	alice := harness.NewClient(t)
	alice.Login(d, d.Alice())
	bob := harness.NewClient(t)
	bob.Login(d, d.Bob())

	t.Run("a command before the login", func(t *testing.T) {
		harness.NewClient(t).Tsh("ssh", d.Node, "true").Refused(t, "not logged in", "tsh login")
	})
	t.Run("a user without any account on the node sees it and cannot log in", func(t *testing.T) {
		if out := bob.Tsh("ls").OK(t); !strings.Contains(out, d.Node) {
			t.Errorf("got %q, want the node", out)
		}
		bob.Tsh("ssh", d.Login+"@"+d.Node, "true").Refused(t)
	})
	t.Run("a user without administrative actions cannot administer", func(t *testing.T) {
		bob.Tsh("get", "roles").Refused(t, "get on roles")
		bob.Tsh("token", "create", "--kind", "node").Refused(t)
		alice.Tsh("get", "roles").OK(t)
	})
	t.Run("an account that no role allows", func(t *testing.T) {
		alice.Tsh("ssh", "nobody@"+d.Node, "true").Refused(t, "nobody")
	})
	t.Run("an unknown node", func(t *testing.T) {
		alice.Tsh("ssh", d.Login+"@nosuch", "true").Refused(t, "nosuch", "tsh ls")
	})
	t.Run("a wrong pin", func(t *testing.T) {
		c := harness.NewClient(t)
		pin := "sha256:" + strings.Repeat("ab", 32)
		p := c.StartLogin("--proxy", d.Proxy, "--pin", pin)
		_ = p.Wait()
		if out := p.Output(); !strings.Contains(out, "pin") || !strings.Contains(out, "tsh: hint: ") {
			t.Errorf("got %q, want the pin and a hint", out)
		}
	})
	t.Run("a web certificate of an unknown CA", func(t *testing.T) {
		c := harness.NewClient(t)
		c.Tsh("login", "--browser=none", "--proxy", d.Proxy).Refused(t, "certificate", "--ca-file")
	})
	t.Run("a proxy that does not run", func(t *testing.T) {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		addr := l.Addr().String()
		l.Close()
		c := harness.NewClient(t)
		c.Tsh("login", "--browser=none", "--proxy", addr, "--ca-file", d.CAFile).Refused(t, addr)
	})
	t.Run("a port in use", func(t *testing.T) {
		r := harness.Run(t, nil, nil, harness.Bin(t, "threshold-demo"), "--listen", d.Proxy)
		if r.Code == 0 || !strings.Contains(r.Stderr, "in use") || !strings.Contains(r.Stderr, "hint:") {
			t.Errorf("got %+v, want the port named and a hint", r)
		}
	})
	t.Run("an invalid command line", func(t *testing.T) {
		for _, args := range [][]string{
			{"threshold", "start", "--bogus"},
			{"threshold", "start", "server.yaml"},
			{"threshold", "bogus"},
			{"threshold-demo", "--bogus"},
			{"threshold-demo", "bogus"},
			{"threshold-node", "--bogus"},
		} {
			r := harness.Run(t, nil, nil, harness.Bin(t, args[0]), args[1:]...)
			if r.Code != 2 || strings.Count(r.Stderr, "\n") != 2 ||
				!strings.Contains(r.Stderr, args[0]+": error: ") ||
				!strings.Contains(r.Stderr, args[0]+": hint: run: ") {
				t.Errorf("%q: got %+v, want an error and a hint, and no more", args, r)
			}
		}
	})
	t.Run("an invalid configuration, with all errors at once", func(t *testing.T) { badConfiguration(t) })
	t.Run("an invalid document, with all errors at once", func(t *testing.T) {
		file := harness.WriteFile(t, t.TempDir(), "role.yaml", `kind: role
version: v1
metadata: {name: ops}
spec:
  allow:
    - nodes: {env: prod}
      loggins: [root]
      actions: [shel]
`)
		alice.Tsh("apply", "-f", file).Refused(t, "loggins", "role.yaml:7")
	})
}

func badConfiguration(t *testing.T) {
	t.Helper()
	file := harness.WriteFile(t, t.TempDir(), "threshold.yaml", `kind: server
version: v1
spec:
  data: /tmp/x
  prxy: {}
  proxy:
    listen: 7
    cert_file: a
`)
	r := harness.Run(t, nil, nil, harness.Bin(t, "threshold"), "start", "--config", file)
	for _, want := range []string{file + ":5", "prxy", file + ":6", "public", "hint:"} {
		if r.Code == 0 || !strings.Contains(r.Stderr, want) {
			t.Errorf("got %d %q, want %q in it", r.Code, r.Stderr, want)
		}
	}
}

// After a wrong code, a used code or a changed address the login continues, or ends with a page that says
// why.
func TestTheLoginPagesSayWhatIsWrong(t *testing.T) {
	d := harness.StartDemo(t)
	alice := d.Alice()
	start := func(t *testing.T) string {
		return harness.NewClient(t).StartLogin("--proxy", d.Proxy, "--ca-file", d.CAFile).Line("Open: ")
	}
	t.Run("a wrong code, the right code and a used code", func(t *testing.T) {
		first := harness.NewClient(t)
		used := harness.FreshCode(t, alice)
		p := first.StartLogin("--proxy", d.Proxy, "--ca-file", d.CAFile)
		page := harness.SignIn(t, d.Roots(t), p.Line("Open: "), alice.Email, alice.Password)
		page, err := page.Submit(t.Context(), map[string]string{"code": "000000"})
		if err != nil || !page.HasField("code") {
			t.Fatalf("got %v %v, want the factor page again", page, err)
		}
		if !strings.Contains(page.ByID("error"), "code") {
			t.Errorf("got %q, want the page to name the code", page.Text())
		}
		if _, err = page.Submit(t.Context(), map[string]string{"code": used}); err != nil {
			t.Fatal(err)
		}
		if err := p.Wait(); err != nil {
			t.Fatalf("tsh login: %v %s", err, p.Output())
		}
		page = harness.SignIn(t, d.Roots(t), start(t), alice.Email, alice.Password)
		if page, err = page.Submit(t.Context(), map[string]string{"code": used}); err != nil ||
			!strings.Contains(page.ByID("error"), "used") {
			t.Errorf("got %q, %v, want the page to say that the code was used", page.Text(), err)
		}
	})
	t.Run("an unknown user", func(t *testing.T) {
		page := harness.SignIn(t, d.Roots(t), start(t), "mallory@example.com", "x")
		if page.HasField("code") || !page.HasField("password") {
			t.Errorf("got %q, want the provider's form again", page.Text())
		}
	})
	t.Run("a callback that belongs to no login", func(t *testing.T) {
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
