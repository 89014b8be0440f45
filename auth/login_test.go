package auth

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"testing"

	ptotp "github.com/pquerna/otp/totp"
	"golang.org/x/crypto/ssh"

	"github.com/threshold-access/threshold/auth/oidc/oidctest"
	"github.com/threshold-access/threshold/auth/state/statetest"
	"github.com/threshold-access/threshold/internal/access"
	"github.com/threshold-access/threshold/internal/audit"
	"github.com/threshold-access/threshold/internal/authrpc"
	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/formbrowser"
	"github.com/threshold-access/threshold/internal/identity"
	"github.com/threshold-access/threshold/internal/rules"
)

const origin = "https://access.example.com"

// loginFixture is a running cluster with its identity provider and a proxy.
type loginFixture struct {
	*testServer
	proxy *machine
}

func newLoginFixture(t *testing.T) *loginFixture {
	t.Helper()
	var provider *oidctest.Provider // set before the first request
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		provider.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	dir := t.TempDir()
	text := strings.Replace(string(bootstrapText(dir)), "https://login.example.org", server.URL, 1)
	f := &loginFixture{testServer: startServer(t, dir, []byte(text))}
	var err error
	provider, err = oidctest.New(oidctest.Config{
		Issuer: server.URL,
		Alg:    "ES256",
		Now:    f.now,
		Clients: []oidctest.Client{{
			ID:        "threshold",
			Secret:    "a client secret",
			Redirects: []string{origin + authrpc.CallbackPath("corp")},
		}},
		Users: []oidctest.User{
			{
				Email:    "alice@example.com",
				Password: "wonderland",
				Subject:  "sub-alice",
				Claims:   map[string]any{"groups": []string{"admins"}},
			},
			{Email: "bob@example.com", Password: "builder", Subject: "sub-bob"},
		},
	})
	f.must(err)
	f.proxy = f.join(identity.Proxy, "edge", nil, "access.example.com")
	return f
}

// loginClient is what tsh keeps while it logs in.
type loginClient struct {
	verifier string
	sshKey   []byte
	x509Key  []byte
	key      ed25519.PrivateKey
}

// keys are what tsh redeems a login with.
func (l loginClient) keys() authrpc.Keys {
	return authrpc.Keys{Verifier: l.verifier, SSHKey: l.sshKey, X509Key: l.x509Key}
}

// begin is the request that begins a login of this client at a proxy with the origin.
func (l loginClient) begin(origin string) authrpc.BeginLoginRequest {
	return authrpc.BeginLoginRequest{
		Challenge:    authrpc.Challenge(l.verifier, l.sshKey, l.x509Key),
		Callback:     "http://127.0.0.1:4711/callback",
		State:        "a-state-of-tsh",
		PublicOrigin: origin,
		From:         netip.MustParseAddr("192.0.2.7"),
	}
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

// loginUntilFactor does what the browser does up to the second factor.
func (f *loginFixture) loginUntilFactor(l loginClient, login, password string) authrpc.FinishOIDCResponse {
	f.t.Helper()
	ctx := f.t.Context()
	begun, err := authrpc.Call(ctx, f.proxy.Client, authrpc.BeginLogin, l.begin(origin))
	f.must(err)
	page, err := formbrowser.New(nil, origin).Open(ctx, begun.Redirect)
	if err == nil && page.Location == "" {
		page, err = page.Submit(ctx, map[string]string{"login": login, "password": password})
	}
	f.must(err)
	callback, err := url.Parse(page.Location)
	f.must(err)
	q := callback.Query()
	out, err := authrpc.Call(ctx, f.proxy.Client, authrpc.FinishOIDC, authrpc.FinishOIDCRequest{
		Connector: "corp",
		Attempt:   begun.Attempt,
		State:     q.Get("state"),
		Code:      q.Get("code"),
		Issuer:    q.Get("iss"),
		From:      netip.MustParseAddr("192.0.2.7"),
	})
	f.must(err)
	return out
}

// logIn enrols the user's factor and returns the request by which tsh redeems the login.
func (f *loginFixture) logIn(l loginClient, login, password string) authrpc.RedeemLoginRequest {
	f.t.Helper()
	identified := f.loginUntilFactor(l, login, password)
	shown, err := authrpc.Call(f.t.Context(), f.proxy.Client, authrpc.ShowFactor, authrpc.ShowFactorRequest{
		Attempt: identified.Attempt,
	})
	f.must(err)
	if len(shown.Challenges) != 1 || !shown.Challenges[0].Enrol {
		f.t.Fatalf("got challenges %+v at a first login, want an enrolment", shown.Challenges)
	}
	var enrolment authrpc.TOTPEnrolment
	f.must(json.Unmarshal(shown.Challenges[0].Body, &enrolment))
	code, err := ptotp.GenerateCode(enrolment.Secret, f.now())
	f.must(err)
	body, err := json.Marshal(code)
	f.must(err)
	prove := authrpc.ProveFactorRequest{
		Attempt:  identified.Attempt,
		Response: authrpc.FactorResponse{Kind: authrpc.TOTP, Body: body},
		From:     netip.MustParseAddr("192.0.2.7"),
	}
	proven, err := authrpc.Call(f.t.Context(), f.proxy.Client, authrpc.ProveFactor, prove)
	f.must(err)
	callback, err := url.Parse(proven.Redirect)
	f.must(err)
	return authrpc.RedeemLoginRequest{Code: callback.Query().Get("code"), Keys: l.keys()}
}

// redeem redeems a login over a connection without a certificate.
func (f *loginFixture) redeem(r authrpc.RedeemLoginRequest) (authrpc.RedeemLoginResponse, error) {
	return authrpc.Call(f.t.Context(), f.client(nil), authrpc.RedeemLogin, r)
}

// A whole login. Its code does not help a thief with other keys, gives certificates to tsh, and is then used
// up. The provider's claim makes the user an administrator.
func TestALoginEarnsCertificates(t *testing.T) {
	t.Parallel()
	f := newLoginFixture(t)
	l := newLoginClient(t)
	login := f.logIn(l, "alice@example.com", "wonderland")
	stolen := login
	other := newLoginClient(t)
	stolen.SSHKey, stolen.X509Key = other.sshKey, other.x509Key
	if _, err := f.redeem(stolen); !fault.Is(err, fault.Denied) {
		t.Errorf("the code with other keys: got %v, want denied", err)
	}
	res, err := f.redeem(login)
	f.must(err)
	if _, _, err := rules.OpenAuthorities(f.auth.Pin(), res.Authorities); err != nil {
		t.Errorf("got authorities that do not verify: %v", err)
	}
	_, authorities, _ := rules.OpenAuthorities(f.auth.Pin(), res.Authorities)
	if res.MachineLocks == nil {
		t.Fatal("got no machine locks")
	}
	if _, err := (rules.MachineLocks{}).Follow("example.com", authorities, *res.MachineLocks); err != nil {
		t.Errorf("got machine locks that do not verify: %v", err)
	}
	id := res.Identity
	if id.Name != "alice@example.com" || id.Factor != "totp" || !slices.Equal(id.Roles, []string{"admin"}) {
		t.Errorf("got %+v, want alice, an administrator by her claim", id)
	}
	if len(res.SSHCert) != 0 {
		t.Error("got an SSH certificate for a user whose roles grant no login")
	}
	admin := f.client(&tls.Certificate{Certificate: res.X509, PrivateKey: l.key})
	who, err := authrpc.Call(t.Context(), admin, authrpc.WhoAmI, authrpc.WhoAmIRequest{})
	f.must(err)
	if who.Identity.UserKey() != (identity.UserKey{Connector: "corp", Subject: "sub-alice"}) {
		t.Errorf("got %+v, want alice", who.Identity)
	}
	read := authrpc.GetResourcesRequest{Kind: access.Users, Name: "alice@example.com"}
	if _, err := authrpc.Call(t.Context(), admin, authrpc.GetResources, read); err != nil {
		t.Errorf("an administrator reads users: got %v", err)
	}
	if _, err := f.redeem(login); !fault.Is(err, fault.Expired) || fault.Remedy(err) == "" {
		t.Errorf("the code again: got %v, want expired with a remedy", err)
	}
	if e := f.event(audit.CertIssued, "alice@example.com"); e.Proxy.Name != "edge" || e.From != "192.0.2.7" {
		t.Errorf("got %+v, want the event to name proxy and address of the login", e)
	}
}

// A user without roles can log in, may read nothing, and sees no node. The refusal is in the audit log.
func TestAUserWithoutRolesIsRefused(t *testing.T) {
	t.Parallel()
	f := newLoginFixture(t)
	l := newLoginClient(t)
	res, err := f.redeem(f.logIn(l, "bob@example.com", "builder"))
	f.must(err)
	bob := f.client(&tls.Certificate{Certificate: res.X509, PrivateKey: l.key})
	read := authrpc.GetResourcesRequest{Kind: access.Users}
	_, err = authrpc.Call(t.Context(), bob, authrpc.GetResources, read)
	if !fault.Is(err, fault.Denied) || fault.Remedy(err) == "" {
		t.Errorf("got %v, want denied with a remedy", err)
	}
	f.join(identity.Node, "web", nil)
	list, err := authrpc.Call(t.Context(), bob, authrpc.ListNodes, authrpc.ListNodesRequest{})
	if err != nil || len(list.Nodes) != 0 {
		t.Errorf("got %+v and %v, want an empty list", list, err)
	}
	e := statetest.Body[audit.ResourceRefusal](t, f.event(audit.ResourceRefused, "bob@example.com"))
	if e.Kind != "users" || e.Reason == "" {
		t.Errorf("got %+v, want the refusal in the audit log", e)
	}
}

func TestAProxySendsBrowsersOnlyToItself(t *testing.T) {
	t.Parallel()
	f := newLoginFixture(t)
	l := newLoginClient(t)
	for public, want := range map[string]fault.Kind{
		origin:                     "",
		origin + ":8443":           "",
		"https://evil.example.org": fault.Denied,
	} {
		_, err := authrpc.Call(t.Context(), f.proxy.Client, authrpc.BeginLogin, l.begin(public))
		if fault.KindOf(err) != want {
			t.Errorf("%s: got %v, want kind %q", public, err, want)
		}
	}
}

// A login stores nothing but the attempt, once the provider has identified the user, until the factor is
// proved.
func TestAnUnfinishedLoginStoresTheAttemptAlone(t *testing.T) {
	t.Parallel()
	f := newLoginFixture(t)
	before := f.revision()
	f.loginUntilFactor(newLoginClient(t), "alice@example.com", "wonderland")
	if after := f.revision(); after != before+1 {
		t.Errorf("got revision %d, want %d: one write", after, before+1)
	}
}

func TestALoginSurvivesARestart(t *testing.T) {
	t.Parallel()
	f := newLoginFixture(t)
	login := f.logIn(newLoginClient(t), "alice@example.com", "wonderland")
	f.must(f.stop())
	f.testServer = startServer(t, f.dir, nil)
	if _, err := f.redeem(login); err != nil {
		t.Errorf("after the restart: got %v, want certificates", err)
	}
}

// event returns the last event of the code about the user.
func (f *loginFixture) event(code audit.Code, user string) (last audit.Event) {
	f.t.Helper()
	for _, e := range statetest.Events(f.t, f.state()) {
		if e.Code == code && e.Actor.Name == user {
			last = e
		}
	}
	return last
}
