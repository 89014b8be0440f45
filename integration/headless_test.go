//go:build integration

package integration

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/threshold-access/threshold/integration/harness"
)

// A user logs in on a build machine without a browser, with the browser of another machine.
func TestLoginOnAMachineWithoutABrowser(t *testing.T) {
	t.Parallel()
	d := harness.StartDemo(t)
	alice := d.Alice()
	builder := harness.NewClient(t)
	cmd := builder.Command("login", "--headless", "--proxy", d.Proxy, "--ca-file", d.CAFile)
	p := harness.StartCmd(t, cmd)
	link := p.Line("Open: ")
	p.WaitFor("Waiting until")
	code := regexp.MustCompile(`[B-Z]{4}-[B-Z]{4}`).FindString(p.Output())

	page := harness.Open(t, d.Roots(t), link)
	shown := page.ByID("shown")
	if code == "" || shown != code || !strings.Contains(page.Text(), "127.0.0.1") {
		t.Fatalf("got %q and page %q, want the code %q and the address of tsh", shown, page.Text(), code)
	}
	page, err := page.Follow(t.Context(), "continue")
	if err != nil {
		t.Fatal(err)
	}
	page, err = page.Submit(t.Context(), map[string]string{"login": alice.Email, "password": alice.Password})
	if err != nil {
		t.Fatal(err)
	}
	if page.ByID("shown") != code {
		t.Errorf("got page %q, want the code on the page of the second factor too", page.Text())
	}
	page, err = page.Submit(t.Context(), map[string]string{"code": harness.FreshCode(t, alice)})
	if err != nil || page.Status != 200 || !strings.Contains(page.Text(), "Logged in") {
		t.Fatalf("got %v and page %+v, want the login approved", err, page)
	}
	if err := p.Wait(); err != nil {
		t.Fatalf("tsh login --headless: %v\n%s", err, p.Output())
	}
	if out := builder.Tsh("ssh", d.Login+"@"+d.Node, "echo in").OK(t); out != "in\n" {
		t.Errorf("got %q, want in", out)
	}
	cert := certificateIn(t, builder)
	if !strings.Contains(cert, "source-address 127.0.0.1/32") {
		t.Errorf("got certificate %s, want it bound to the address of tsh", cert)
	}
	if page := harness.Open(t, d.Roots(t), link+"&go=1"); page.ByID("shown") != code {
		t.Errorf("got page %q from a link with &go=1, want the question with the code", page.Text())
	}
}

// certificateIn is the SSH certificate of the client's login, printed by ssh-keygen.
func certificateIn(t *testing.T, c *harness.Client) string {
	t.Helper()
	var found string
	err := filepath.WalkDir(filepath.Join(c.Home, ".tsh"), func(path string, _ os.DirEntry, err error) error {
		if strings.HasSuffix(path, "-cert.pub") {
			found = path
		}
		return err
	})
	if err != nil || found == "" {
		t.Fatalf("got %v and certificate %q", err, found)
	}
	out, err := exec.Command("ssh-keygen", "-L", "-f", found).CombinedOutput()
	if err != nil {
		t.Fatalf("ssh-keygen: %v %s", err, out)
	}
	return string(out)
}
