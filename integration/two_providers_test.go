//go:build integration

package integration

import (
	"fmt"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/threshold-access/threshold/integration/harness"
	"github.com/threshold-access/threshold/internal/formbrowser"
)

// An administrator adds a second identity provider. Users choose one. The same email address and subject at
// the other provider is another user, and an answer of one provider is not accepted as an answer of the
// other.
func TestTwoProvidersWorkSideBySide(t *testing.T) {
	proxy := harness.FreeAddr(t, "127.0.0.1")
	corp := harness.StartProvider(t, "127.0.0.1", proxy)
	guests := harness.StartProviderAs(t, "guests", "127.0.0.1", proxy)
	s := harness.StartServer(t, proxy, corp, "")
	admin := harness.NewClient(t)
	alice := admin.FirstLogin(s, harness.Alice())
	connector := func(name string, p harness.Provider) string {
		return harness.WriteFile(t, t.TempDir(), "connector.yaml", fmt.Sprintf(`kind: connector
version: v1
metadata: {name: %[1]s}
spec:
  type: oidc
  display: The %[1]s
  issuer: %[2]s
  client_id: %[3]s
  client_secret: %[4]s
`, name, p.Issuer, p.ClientID, p.ClientSecret))
	}
	start := func(t *testing.T, c *harness.Client, more ...string) *harness.Process {
		return c.StartLogin(append([]string{"--proxy", proxy, "--ca-file", s.CAFile}, more...)...)
	}
	form := map[string]string{"login": alice.Email, "password": alice.Password}
	admin.Tsh("apply", "-f", connector("guests", guests)).OK(t)

	t.Run("the issuer of a connector cannot be changed, nor after its removal", func(t *testing.T) {
		admin.Tsh("apply", "-f", connector("guests", corp)).Refused(t, guests.Issuer, "another name")
		admin.Tsh("rm", "connector", "guests").OK(t)
		<-time.After(time.Second) // a login of the second of the removal counts as before it
		admin.Tsh("apply", "-f", connector("guests", corp)).Refused(t, guests.Issuer, "another name")
		admin.Tsh("apply", "-f", connector("guests", guests)).OK(t)
	})
	t.Run("the guests' alice is another user without roles", func(t *testing.T) {
		c := harness.NewClient(t)
		p := start(t, c)
		page := harness.Open(t, s.Roots(t), p.Line("Open: "))
		both := strings.Contains(page.Text(), "The guests") && strings.Contains(page.Text(), "corp")
		if page.HasField("password") || !both {
			t.Fatalf("got %q, want both to choose from", page.Text())
		}
		page, err := page.Follow(t.Context(), "The guests")
		if err == nil {
			page, err = page.Submit(t.Context(), form)
		}
		if err != nil {
			t.Fatal(err)
		}
		_, page = harness.Enrol(t, page, harness.Alice()) // fails if asked for the factor of corp's alice
		if _, err := page.Follow(t.Context(), "continue"); err != nil {
			t.Fatal(err)
		}
		if err := p.Wait(); err != nil {
			t.Fatalf("tsh login: %v\n%s", err, p.Output())
		}
		c.Tsh("get", "users").Refused(t, "users")
	})
	t.Run("both users are stored", func(t *testing.T) {
		out := admin.Tsh("get", "users").OK(t)
		if !strings.Contains(out, "corp/") || !strings.Contains(out, "guests/") {
			t.Errorf("got %q, want a user of each connector", out)
		}
	})
	t.Run("--connector skips the choice and an unknown connector is refused", func(t *testing.T) {
		open := func(connector string) *formbrowser.Page {
			p := start(t, harness.NewClient(t), "--connector", connector)
			return harness.Open(t, s.Roots(t), p.Line("Open: "))
		}
		page := open("corp")
		if !page.HasField("password") || !strings.HasPrefix(page.URL.String(), corp.Issuer) {
			t.Errorf("got %s, want corp's form", page.URL)
		}
		if page = open("nosuch"); page.Status != 404 || !strings.Contains(page.Text(), "guests") {
			t.Errorf("got %d %q, want the existing connectors named", page.Status, page.Text())
		}
	})
	t.Run("an answer is refused in another browser and login", func(t *testing.T) {
		callback := harness.CallbackURL(proxy, "")
		answer := func(name string) (*formbrowser.Browser, url.Values) {
			b := formbrowser.New(s.Roots(t), callback)
			p := start(t, harness.NewClient(t), "--connector", name)
			page, err := b.Open(t.Context(), p.Line("Open: "))
			if err == nil {
				page, err = page.Submit(t.Context(), form)
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
		const otherLogin, otherProvider = "does not belong to this login", "another identity provider"
		for name, try := range map[string]struct {
			in     *formbrowser.Browser
			at     string
			with   url.Values
			status int
			says   string
		}{
			"in another browser":                           {theirs, "guests", own, 400, otherLogin},
			"another provider's code":                      {mine, "corp", mixed, 400, otherProvider},
			"another provider's code without the provider": {mine, "corp", silent, 400, otherProvider},
			"at another provider's callback":               {mine, "guests", silent, 403, otherProvider},
		} {
			page, err := try.in.Open(t.Context(), callback+try.at+"?"+try.with.Encode())
			if err != nil || page.Status != try.status || !strings.Contains(page.Text(), try.says) ||
				!strings.Contains(page.Text(), "tsh login") {
				t.Errorf("%s: got %v %+v, want it refused with %q", name, err, page, try.says)
			}
		}
	})
}
