//go:build integration

package integration

import (
	"fmt"
	"net/url"
	"strings"
	"testing"

	"github.com/threshold-access/threshold/integration/harness"
	"github.com/threshold-access/threshold/internal/formbrowser"
)

// A second provider is added. People choose; the same address, and even the same subject, at the other one is
// somebody else; and no answer of one passes for an answer of the other.
func TestTwoProvidersWorkSideBySide(t *testing.T) {
	proxy := harness.FreeAddr(t, "127.0.0.1")
	corp, guests := harness.StartProvider(
		t,
		"127.0.0.1",
		proxy,
	), harness.StartProviderAs(
		t,
		"guests",
		"127.0.0.1",
		proxy,
	)
	s := harness.StartServer(t, proxy, corp, "")
	admin := harness.NewClient(t)
	alice := admin.FirstLogin(s, harness.Alice())
	connector := func(name string, p harness.Provider) string {
		return harness.WriteFile(
			t,
			t.TempDir(),
			"connector.yaml",
			fmt.Sprintf(
				"kind: connector\nversion: v1\nmetadata: {name: %s}\nspec:\n  type: oidc\n  display: The %s\n"+
					"  issuer: %s\n  client_id: %s\n  client_secret: %s\n",
				name,
				name,
				p.Issuer,
				p.ClientID,
				p.ClientSecret,
			),
		)
	}
	begin := func(t *testing.T, c *harness.Client, more ...string) *harness.Process {
		return c.StartLogin(append([]string{"--proxy", proxy, "--ca-file", s.CAFile}, more...)...)
	}
	admin.Tsh("apply", "-f", connector("guests", guests)).OK(t)

	t.Run("a connector is not pointed at another issuer, nor after its removal", func(t *testing.T) {
		admin.Tsh("apply", "-f", connector("guests", corp)).Refused(t, guests.Issuer, "another name")
		admin.Tsh("rm", "connector", "guests").OK(t)
		admin.Tsh("apply", "-f", connector("guests", corp)).Refused(t, guests.Issuer, "another name")
		admin.Tsh("apply", "-f", connector("guests", guests)).OK(t)
	})
	t.Run(
		"the page offers both, and who comes by the other is another person without roles",
		func(t *testing.T) {
			c := harness.NewClient(t)
			p := begin(t, c)
			page := harness.Open(t, s.Roots(t), p.Line("Open: "))
			if page.HasField("password") || !strings.Contains(page.Text(), "The guests") ||
				!strings.Contains(page.Text(), "corp") {
				t.Fatalf("got %q, want both to choose from", page.Text())
			}
			page, err := page.Follow(t.Context(), "The guests")
			if err == nil {
				page, err = page.Submit(
					t.Context(),
					map[string]string{"login": alice.Email, "password": alice.Password},
				)
			}
			if err != nil {
				t.Fatal(err)
			}
			_, page = harness.Enrol(
				t,
				page,
				harness.Alice(),
			) // fails if alice's own second factor is asked for
			if _, err := page.Follow(t.Context(), "continue"); err != nil {
				t.Fatal(err)
			}
			if err := p.Wait(); err != nil {
				t.Fatalf("tsh login: %v\n%s", err, p.Output())
			}
			c.Tsh("get", "users").Refused(t, "users")
		},
	)
	t.Run("both are on record", func(t *testing.T) {
		if out := admin.Tsh("get", "users").OK(t); !strings.Contains(out, "corp/") ||
			!strings.Contains(out, "guests/") {
			t.Errorf("got %q, want a user of each connector", out)
		}
	})
	t.Run("--connector leads there at once, and nowhere if there is none", func(t *testing.T) {
		if page := harness.Open(t, s.Roots(t), begin(t, harness.NewClient(t), "--connector", "corp").Line("Open: ")); !page.HasField(
			"password",
		) ||
			!strings.HasPrefix(page.URL.String(), corp.Issuer) {
			t.Errorf("got %s, want corp's form", page.URL)
		}
		if page := harness.Open(t, s.Roots(t), begin(t, harness.NewClient(t), "--connector", "nosuch").Line("Open: ")); page.Status != 404 ||
			!strings.Contains(page.Text(), "guests") {
			t.Errorf("got %d %q, want those there are named", page.Status, page.Text())
		}
	})
	t.Run("an answer serves neither another browser nor another provider's login", func(t *testing.T) {
		callback := harness.CallbackURL(proxy, "")
		answer := func(name string) (*formbrowser.Browser, url.Values) {
			b := formbrowser.New(s.Roots(t), callback)
			page, err := b.Open(
				t.Context(),
				begin(t, harness.NewClient(t), "--connector", name).Line("Open: "),
			)
			if err == nil {
				page, err = page.Submit(
					t.Context(),
					map[string]string{"login": alice.Email, "password": alice.Password},
				)
			}
			if err != nil {
				t.Fatal(err)
			}
			u, err := url.Parse(page.Location)
			if err != nil || !strings.HasPrefix(page.Location, callback+name+"?") {
				t.Fatalf("got %d to %q, want the callback", page.Status, page.Location)
			}
			return b, u.Query()
		}
		mine, own := answer("corp")
		theirs, other := answer("guests")
		mixed := url.Values{"state": own["state"], "code": other["code"], "iss": other["iss"]}
		silent := url.Values{"state": own["state"], "code": other["code"]}
		for name, try := range map[string]struct {
			in     *formbrowser.Browser
			at     string
			with   url.Values
			status int
			says   string
		}{
			"another browser's":                      {theirs, "guests", own, 400, "does not belong to this login"},
			"another provider's code":                {mine, "corp", mixed, 400, "another identity provider"},
			"another provider's code without a name": {mine, "corp", silent, 400, "another identity provider"},
			"one that came to another's address":     {mine, "guests", silent, 403, "another identity provider"},
		} {
			page, err := try.in.Open(t.Context(), callback+try.at+"?"+try.with.Encode())
			if err != nil || page.Status != try.status || !strings.Contains(page.Text(), try.says) ||
				!strings.Contains(page.Text(), "tsh login") {
				t.Errorf("%s: got %v %+v, want it refused with %q", name, err, page, try.says)
			}
		}
	})
}
