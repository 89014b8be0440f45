package auth

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	ptotp "github.com/pquerna/otp/totp"
	"golang.org/x/crypto/ssh"

	"github.com/threshold-access/threshold/auth/oidc/oidctest"
	"github.com/threshold-access/threshold/internal/access"
	"github.com/threshold-access/threshold/internal/audit"
	"github.com/threshold-access/threshold/internal/authrpc"
	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/formbrowser"
	"github.com/threshold-access/threshold/internal/identity"
	"github.com/threshold-access/threshold/internal/rules"
)

const origin = "https://access.example.com"

// loginFixture is a running cluster, its identity provider and a proxy in front.
type loginFixture struct {
	*testServer
	proxy *machine
}

func newLoginFixture(t *testing.T) *loginFixture {
	t.Helper()
	var provider *oidctest.Provider
	server := httptest.NewServer(
		http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { provider.ServeHTTP(w, r) }),
	)
	t.Cleanup(server.Close)
	dir := t.TempDir()
	text := strings.Replace(string(bootstrapText(dir)), "https://login.example.org", server.URL, 1)
	c := &loginFixture{testServer: startServer(t, dir, []byte(text))}
	var err error
	provider, err = oidctest.New(oidctest.Config{Issuer: server.URL, Alg: "ES256", Now: c.now,
		Clients: []oidctest.Client{
			{
				ID:        "threshold",
				Secret:    "a client secret",
				Redirects: []string{origin + authrpc.CallbackPath("corp")},
			},
		},
		Users: []oidctest.User{
			{
				Email:    "alice@example.com",
				Password: "wonderland",
				Subject:  "sub-alice",
				Claims:   map[string]any{"groups": []string{"admins"}},
			},
			{Email: "bob@example.com", Password: "builder", Subject: "sub-bob"},
		}})
	c.must(err)
	c.proxy = c.join(identity.Proxy, "edge", nil, "access.example.com")
	return c
}

// loginClient is a client that logs in.
type loginClient struct {
	verifier string
	sshKey   []byte
	x509Key  []byte
	key      ed25519.PrivateKey
}

func newLoginClient(t *testing.T) loginClient {
	t.Helper()
	pub, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	sshKey, err := ssh.NewPublicKey(pub)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		t.Fatal(err)
	}
	return loginClient{verifier: rand.Text() + rand.Text(), sshKey: sshKey.Marshal(), x509Key: der, key: key}
}

// loginUntilFactor goes through the browser's part up to the second factor.
func (c *loginFixture) loginUntilFactor(me loginClient, login, password string) authrpc.FinishOIDCResponse {
	c.t.Helper()
	begun, err := authrpc.Call(c.t.Context(), c.proxy.Client, authrpc.BeginLogin, authrpc.BeginLoginRequest{
		Challenge: authrpc.Challenge(
			me.verifier,
			me.sshKey,
			me.x509Key,
		), Callback: "http://127.0.0.1:4711/callback", State: "a-state-of-tsh", PublicOrigin: origin, From: "192.0.2.7"})
	c.must(err)
	page, err := formbrowser.New(nil, origin).Open(c.t.Context(), begun.Redirect)
	if err == nil && page.Location == "" {
		page, err = page.Submit(c.t.Context(), map[string]string{"login": login, "password": password})
	}
	c.must(err)
	back, err := url.Parse(page.Location)
	c.must(err)
	q := back.Query()
	out, err := authrpc.Call(
		c.t.Context(),
		c.proxy.Client,
		authrpc.FinishOIDC,
		authrpc.FinishOIDCRequest{Connector: "corp",
			Attempt: begun.Attempt, State: q.Get("state"), Code: q.Get("code"), Issuer: q.Get("iss"), From: "192.0.2.7"},
	)
	c.must(err)
	return out
}

// logIn enrols the person's factor and returns what tsh has to redeem.
func (c *loginFixture) logIn(me loginClient, login, password string) authrpc.RedeemLoginRequest {
	c.t.Helper()
	i := c.loginUntilFactor(me, login, password)
	if i.Enrol == nil {
		c.t.Fatal("got no enrolment at a first login")
	}
	code, err := ptotp.GenerateCode(i.Enrol.Secret, c.now())
	c.must(err)
	proven, err := authrpc.Call(
		c.t.Context(),
		c.proxy.Client,
		authrpc.ProveFactor,
		authrpc.ProveFactorRequest{Attempt: i.Attempt, Code: code, From: "192.0.2.7"},
	)
	c.must(err)
	back, err := url.Parse(proven.Redirect)
	c.must(err)
	return authrpc.RedeemLoginRequest{
		Code: back.Query().Get("code"),
		Keys: authrpc.Keys{Verifier: me.verifier, SSHKey: me.sshKey, X509Key: me.x509Key},
	}
}

func TestALoginEarnsCertificates(t *testing.T) {
	c := newLoginFixture(t)
	me := newLoginClient(t)
	redeem := c.logIn(me, "alice@example.com", "wonderland")
	other := newLoginClient(t)
	stolen := redeem
	stolen.SSHKey, stolen.X509Key = other.sshKey, other.x509Key
	if _, err := authrpc.Call(t.Context(), c.client(nil), authrpc.RedeemLogin, stolen); !fault.Is(
		err,
		fault.Denied,
	) {
		t.Errorf("the code with other keys: got %v, want denied", err)
	}
	res, err := authrpc.Call(t.Context(), c.client(nil), authrpc.RedeemLogin, redeem)
	c.must(err)
	if _, _, err := rules.OpenAuthorities(c.auth.Pin(), res.Authorities); err != nil {
		t.Errorf("got authorities that do not verify: %v", err)
	}
	if res.Identity.Name != "alice@example.com" || res.Identity.Factor != "totp" ||
		len(res.Identity.Roles) != 1 ||
		res.Identity.Roles[0] != "admin" {
		t.Errorf("got %+v, want alice, an administrator by her claim", res.Identity)
	}
	if len(res.SSHCert) != 0 {
		t.Error("got an SSH certificate for someone without a login")
	}
	admin := c.client(&tls.Certificate{Certificate: res.X509, PrivateKey: me.key})
	who, err := authrpc.Call(t.Context(), admin, authrpc.WhoAmI, authrpc.WhoAmIRequest{})
	c.must(err)
	if who.Identity.UserKey() != (identity.UserKey{Connector: "corp", Subject: "sub-alice"}) {
		t.Errorf("got %+v, want alice", who.Identity)
	}
	if _, err := authrpc.Call(t.Context(), admin, authrpc.GetResources, authrpc.GetResourcesRequest{Kind: access.Users, Name: "alice@example.com"}); err != nil {
		t.Errorf("an administrator reads users: got %v", err)
	}
	if _, err := authrpc.Call(t.Context(), c.client(nil), authrpc.RedeemLogin, redeem); !fault.Is(
		err,
		fault.Expired,
	) ||
		fault.Remedy(err) == "" {
		t.Errorf("the code again: got %v, want expired with a remedy", err)
	}
	if e := c.event(audit.CertIssued, "alice@example.com"); e.Proxy != "edge" || e.From != "192.0.2.7" {
		t.Errorf("got %+v, want the issuance by way of edge", e)
	}
}

func TestAUserWithoutRolesIsRefused(t *testing.T) {
	c := newLoginFixture(t)
	me := newLoginClient(t)
	res, err := authrpc.Call(
		t.Context(),
		c.client(nil),
		authrpc.RedeemLogin,
		c.logIn(me, "bob@example.com", "builder"),
	)
	c.must(err)
	bob := c.client(&tls.Certificate{Certificate: res.X509, PrivateKey: me.key})
	if _, err := authrpc.Call(t.Context(), bob, authrpc.GetResources, authrpc.GetResourcesRequest{Kind: access.Users}); !fault.Is(
		err,
		fault.Denied,
	) ||
		fault.Remedy(err) == "" {
		t.Errorf("got %v, want denied with a remedy", err)
	}
	c.join(identity.Node, "web", nil)
	list, err := authrpc.Call(t.Context(), bob, authrpc.ListNodes, authrpc.ListNodesRequest{})
	if err != nil || len(list.Nodes) != 0 {
		t.Errorf("got %+v and %v, want an empty list", list, err)
	}
	if e := c.event(audit.ResourceRefused, "bob@example.com"); e.Fields["kind"] != "users" || e.Reason == "" {
		t.Errorf("got %+v, want the refusal in the log", e)
	}
}

func TestAProxySendsBrowsersOnlyToItself(t *testing.T) {
	c := newLoginFixture(t)
	me := newLoginClient(t)
	for public, want := range map[string]fault.Kind{origin: "", origin + ":8443": "", "https://evil.example.org": fault.Denied} {
		_, err := authrpc.Call(t.Context(), c.proxy.Client, authrpc.BeginLogin, authrpc.BeginLoginRequest{
			Challenge: authrpc.Challenge(
				me.verifier,
				me.sshKey,
				me.x509Key,
			), Callback: "http://127.0.0.1:4711/callback", State: "a-state-of-tsh", PublicOrigin: public})
		if fault.KindOf(err) != want {
			t.Errorf("%s: got %v, want kind %q", public, err, want)
		}
	}
}

// The browser's part writes nothing before the provider has vouched and the factor is there.
func TestAnUnfinishedLoginStoresNothing(t *testing.T) {
	c := newLoginFixture(t)
	before := c.revision()
	c.loginUntilFactor(newLoginClient(t), "alice@example.com", "wonderland")
	if after := c.revision(); after != before {
		t.Errorf("got revision %d, want %d: a login that only began leaves no trace", after, before)
	}
}

func TestALoginSurvivesARestart(t *testing.T) {
	c := newLoginFixture(t)
	me := newLoginClient(t)
	redeem := c.logIn(me, "alice@example.com", "wonderland")
	c.must(c.stop())
	c.testServer = startServer(t, c.dir, nil)
	if _, err := authrpc.Call(t.Context(), c.client(nil), authrpc.RedeemLogin, redeem); err != nil {
		t.Errorf("got %v after the restart, want the login", err)
	}
}

// event returns the last event of the code about the person.
func (c *loginFixture) event(code audit.Code, user string) (last audit.Event) {
	c.t.Helper()
	for after := uint64(1); ; {
		got, err := c.state().ReadEvents(c.t.Context(), after, 100)
		c.must(err)
		if len(got) == 0 {
			return last
		}
		for _, e := range got {
			if e.Event.Code == code && e.Event.User == user {
				last = e.Event
			}
			after = e.Number + 1
		}
	}
}
