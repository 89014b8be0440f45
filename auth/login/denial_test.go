package login_test

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/threshold-access/threshold/auth/login"
	"github.com/threshold-access/threshold/auth/oidc/oidctest"
	"github.com/threshold-access/threshold/auth/state"
	"github.com/threshold-access/threshold/auth/state/statetest"
	"github.com/threshold-access/threshold/internal/audit"
	"github.com/threshold-access/threshold/internal/authrpc"
	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/identity"
)

// malformedCallbacks are addresses that are not the loopback callback of tsh, or only look like it.
var malformedCallbacks = []string{
	"",
	"http://localhost:1234/callback",
	"https://127.0.0.1:1234/callback",
	"http://127.0.0.1/callback",
	"http://127.0.0.1:0/callback",
	"http://127.0.0.1:65536/callback",
	"http://127.0.0.1:1234/callback?x=1",
	"http://127.0.0.1:1234/callback#x",
	"http://127.0.0.1:1234/",
	"http://127.0.0.1:1234/callback/",
	"http://u@127.0.0.1:1234/callback",
	"http://127.0.0.1:1234@evil.example/callback",
	"http://127.0.0.2:1234/callback",
	"http://127.1:1234/callback",
	"http://[::1%25lo]:1234/callback",
	"http://[::ffff:127.0.0.1]:1234/callback",
	"http://evil.example:1234/callback",
	"HTTP://127.0.0.1:1234/callback",
	"http://127.0.0.1.:1234/callback",
	"http://127.0.0.1:01234/callback",
	"http://127.0.0.1:1234/%63allback",
	"http://127.0.0.1%2eevil.example:1234/callback",
	"http://127.0.0.1:1234\\@evil.example/callback",
	"http://[::1]:1234@evil.example/callback",
	"http://[0:0:0:0:0:0:0:1]:1234/callback",
	"javascript:alert(1)",
	"//127.0.0.1:1234/callback",
	" " + callback,
	callback + "\n",
}

// A login link may come from an attacker. One that tsh would not make is refused before anything is stored,
// and counted.
func TestMalformedLoginLinksAreRefused(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	c := newClient(t)
	cases := map[string]func(*authrpc.BeginLoginRequest){
		"no challenge":         func(r *authrpc.BeginLoginRequest) { r.Challenge = "" },
		"a short challenge":    func(r *authrpc.BeginLoginRequest) { r.Challenge = r.Challenge[1:] },
		"a long challenge":     func(r *authrpc.BeginLoginRequest) { r.Challenge += "A" },
		"no state":             func(r *authrpc.BeginLoginRequest) { r.State = "" },
		"a state with a space": func(r *authrpc.BeginLoginRequest) { r.State = "with a space" },
		"a state too long":     func(r *authrpc.BeginLoginRequest) { r.State = strings.Repeat("s", 129) },
		"a host with markup":   func(r *authrpc.BeginLoginRequest) { r.Host = "<b>laptop" },
		"a host with a space":  func(r *authrpc.BeginLoginRequest) { r.Host = "my laptop" },
		"a host too long":      func(r *authrpc.BeginLoginRequest) { r.Host = strings.Repeat("h", 65) },
		"two languages":        func(r *authrpc.BeginLoginRequest) { r.Locale = "en ko" },
		"a connector too long": func(r *authrpc.BeginLoginRequest) { r.Connector = strings.Repeat("c", 65) },
	}
	for _, to := range malformedCallbacks {
		cases["callback "+to] = func(r *authrpc.BeginLoginRequest) { r.Callback = to }
	}
	f.noWrites(func() {
		for name, change := range cases {
			req := c.begin()
			change(&req)
			res, err := f.Begin(t.Context(), proxyIdentity, req)
			if !fault.Is(err, fault.Invalid) || fault.Remedy(err) == "" || res.Attempt != "" {
				t.Errorf("%s: got %+v and %v, want it refused", name, res, err)
			}
		}
	})
	req := c.begin()
	req.Callback = "http://[::1]:1/callback"
	if _, err := f.Begin(t.Context(), proxyIdentity, req); err != nil {
		t.Errorf("got %v for IPv6 loopback, want it allowed", err)
	}
	if got := f.Refusals(); int(got.Begin) != len(cases) {
		t.Errorf("got %+v, want all %d counted", got, len(cases))
	}
}

func TestForeignOriginsAreRefused(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	for public, kind := range map[string]fault.Kind{
		"":                                    fault.Invalid,
		"http://proxy.example.com:8443":       fault.Invalid,
		origin + "/":                          fault.Invalid,
		origin + "?":                          fault.Invalid,
		"https://u@proxy.example.com:8443":    fault.Invalid,
		"https://" + strings.Repeat("x", 400): fault.Invalid,
		"https://evil.example":                fault.Denied,
	} {
		req := newClient(t).begin()
		req.PublicOrigin = public
		if _, err := f.Begin(t.Context(), proxyIdentity, req); !fault.Is(err, kind) {
			t.Errorf("%q: got %v, want %s", public, err, kind)
		}
	}
}

func TestOnlyProxiesMayCall(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	for _, kind := range []identity.Kind{"", identity.User, identity.Node, identity.Auth} {
		by := proxyIdentity
		by.Kind = kind
		_, err := f.Begin(t.Context(), by, newClient(t).begin())
		f.wantFault(err, fault.Denied, "only a proxy")
		_, err = f.Identify(t.Context(), by, authrpc.FinishOIDCRequest{})
		f.wantFault(err, fault.Denied, "only a proxy")
		_, err = f.ShowFactor(t.Context(), by, authrpc.ShowFactorRequest{})
		f.wantFault(err, fault.Denied, "only a proxy")
		_, err = f.Prove(t.Context(), by, authrpc.ProveFactorRequest{})
		f.wantFault(err, fault.Denied, "only a proxy")
	}
}

// With several connectors Begin returns the choice; an unknown or missing connector is an error that says
// what to do.
func TestConnectorIsChosen(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.connect("other")
	res, err := f.Begin(t.Context(), proxyIdentity, newClient(t).begin())
	if err != nil || len(res.Connectors) != 2 || res.Attempt != "" ||
		res.Connectors[0] != (authrpc.Connector{Name: "corp", DisplayName: "Corp"}) {
		t.Errorf("got %+v and %v, want both to choose from and nothing begun", res, err)
	}
	req := newClient(t).begin()
	req.Connector = "crop"
	_, err = f.Begin(t.Context(), proxyIdentity, req)
	f.wantFault(err, fault.NotFound, "corp, other")
	for _, name := range []string{"corp", "other"} {
		stored, err := f.vault.Connectors.Connector(t.Context(), name)
		f.must(err)
		f.must(f.vault.Connectors.RemoveConnector(t.Context(), stored, state.By{Time: time.Now()}))
	}
	_, err = f.Begin(t.Context(), proxyIdentity, newClient(t).begin())
	f.wantFault(err, fault.Unavailable, "tsh apply")
}

// begin starts a login, signs alice in at the provider, and returns the callback parameters.
func (f *fixture) begin(c client) authrpc.FinishOIDCRequest {
	f.t.Helper()
	res, err := f.Begin(f.t.Context(), proxyIdentity, c.begin())
	f.must(err)
	return f.signIn(res, "alice@example.com", "wonderland")
}

// An attacker sends the victim's browser to the callback with the attacker's own code (login CSRF), or with
// the response of another provider (mix-up). Neither may log in, nor write to the store.
func TestCallbackOfAnotherBrowserIsRefused(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	mine, theirs := f.begin(newClient(t)), f.begin(newClient(t))
	mixed := theirs
	mixed.Attempt = mine.Attempt // the attacker's code and state, in the victim's browser
	f.noWrites(func() {
		_, err := f.Identify(t.Context(), proxyIdentity, mixed)
		f.wantFault(err, fault.Invalid, "does not belong to this login")
		mixed.State = mine.State // and with the victim's state
		_, err = f.Identify(t.Context(), proxyIdentity, mixed)
		f.wantFault(err, fault.Invalid, "does not know this code")
		otherProvider := mine
		otherProvider.Connector = "guests" // the callback path of another provider
		_, err = f.Identify(t.Context(), proxyIdentity, otherProvider)
		f.wantFault(err, fault.Denied, "another identity provider")
		mine.Issuer = "https://evil.example"
		_, err = f.Identify(t.Context(), proxyIdentity, mine)
		f.wantFault(err, fault.Invalid, "another identity provider")
	})
}

// What the provider refuses, or what its token fails, reaches the user with the reason. The user is not
// identified, so nothing is written to the store.
func TestProviderRefusalIsReportedAndNotStored(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	withClaim := func(name string, value any) oidctest.Faults {
		return oidctest.Faults{Claims: func(c map[string]any) { c[name] = value }}
	}
	for _, tt := range []struct {
		faults oidctest.Faults
		kind   fault.Kind
		says   string
	}{
		{oidctest.Faults{Refuse: "access_denied"}, fault.Denied, "access_denied"},
		{withClaim("nonce", "x"), fault.Invalid, "does not belong"},
		{withClaim("iat", f.clock().Add(10*time.Minute).Unix()), fault.Invalid, "10m ahead"},
		{withClaim("email_verified", false), fault.Denied, "not verified"},
	} {
		f.provider.SetFaults(tt.faults)
		req := f.begin(newClient(t))
		f.noWrites(func() {
			_, err := f.Identify(t.Context(), proxyIdentity, req)
			f.wantFault(err, tt.kind, tt.says)
		})
	}
	req := f.begin(newClient(t))
	f.provider.SetFaults(oidctest.Faults{Down: true})
	_, err := f.Identify(t.Context(), proxyIdentity, req)
	f.wantFault(err, fault.Unavailable, "cannot be reached")
}

// Before the provider has identified the user, a login is only in the browser's cookie.
func TestNothingIsStoredBeforeTheUserIsIdentified(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	var back authrpc.FinishOIDCRequest
	f.noWrites(func() { back = f.begin(newClient(t)) })
	before := f.probe()
	identified := f.identifyAs(back)
	f.show(identified.attempt)
	if n := f.probe() - before - 1; n != 1 {
		t.Errorf("got %d writes to the store until the page is shown twice, want the attempt alone", n)
	}
}

// An answer of the provider to one attempt counts once, whoever brings another one: also after the login is
// finished.
func TestAnAttemptIsIdentifiedOnce(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	begun, err := f.Begin(t.Context(), proxyIdentity, newClient(t).begin())
	f.must(err)
	identified := f.identifyAs(f.signIn(begun, "alice@example.com", "wonderland"))
	again := f.signIn(begun, "bob@example.com", "builder")
	_, err = f.Identify(t.Context(), proxyIdentity, again)
	f.wantFault(err, fault.Expired, "went on in another page")
	_, err = f.prove(identified.attempt, f.code(identified.secret))
	f.must(err)
	_, err = f.Identify(t.Context(), proxyIdentity, f.signIn(begun, "bob@example.com", "builder"))
	f.wantFault(err, fault.Expired, "went on in another page")
}

// One cookie of a stranger does not suffice to send any number of invented codes to the provider, and other
// logins go on.
func TestInventedCallbacksAreBoundedForEachAttempt(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	mine := f.begin(newClient(t))
	invented := f.begin(newClient(t))
	invented.Code = "invented"
	f.noWrites(func() {
		for range 3 {
			_, err := f.Identify(t.Context(), proxyIdentity, invented)
			f.wantFault(err, fault.Invalid, "does not know this code")
		}
		f.provider.SetFaults(oidctest.Faults{Down: true}) // whoever asks it now gets another error
		for range 20 {
			_, err := f.Identify(t.Context(), proxyIdentity, invented)
			f.wantFault(err, fault.Exhausted, "too often")
		}
		f.provider.SetFaults(oidctest.Faults{})
	})
	if got := f.Refusals(); got.Identify != 23 {
		t.Errorf("got %+v, want all 23 counted", got)
	}
	f.identifyAs(mine)
}

// A sealed attempt opens only at its own step, unaltered and in time.
func TestAttemptIsBoundToStageTimeAndContent(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	req := f.begin(newClient(t))
	identified := f.identify(newClient(t))
	f.noWrites(func() {
		_, err := f.prove(req.Attempt, "123456")
		f.wantFault(err, fault.Invalid, "does not belong to a login of this cluster at this step")
		swapped := req
		swapped.Attempt = identified.attempt
		_, err = f.Identify(t.Context(), proxyIdentity, swapped)
		f.wantFault(err, fault.Invalid, "at this step")
		for at := 0; at < len(identified.attempt); at += 7 {
			b := []byte(identified.attempt)
			b[at] ^= 1
			if _, err := f.prove(string(b), "123456"); !fault.Is(err, fault.Invalid) {
				t.Errorf("byte %d altered: got %v, want it refused", at, err)
			}
		}
		shorter, longer := identified.attempt[:len(identified.attempt)-4], identified.attempt+"AAAA"
		for _, text := range []string{shorter, longer, "AQ", "!", strings.Repeat("A", 5000)} {
			_, err = f.prove(text, "123456")
			f.wantFault(err, fault.Invalid, "start again")
		}
		_, err = f.prove("", "123456")
		f.wantFault(err, fault.Invalid, "cookies")
		f.advance(login.AttemptLife)
		_, err = f.prove(identified.attempt, f.code(identified.secret))
		f.wantFault(err, fault.Expired, "start again: tsh login")
		_, err = f.Identify(t.Context(), proxyIdentity, req)
		f.wantFault(err, fault.Expired, "start again: tsh login")
	})
}

func TestAttemptContinuesOnAnotherReplicaOfTheCluster(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	req := f.begin(newClient(t))
	_, err := f.replica(8).Identify(t.Context(), proxyIdentity, req)
	f.wantFault(err, fault.Invalid, "of this cluster")
	if _, err := f.replica(7).Identify(t.Context(), proxyIdentity, req); err != nil {
		t.Errorf("got %v at another replica, want it to continue", err)
	}
}

// A user with 40 roles enrols a factor. Each step is served by another replica and another proxy, which were
// started since the step before, and the cookie stays small.
func TestAnyProxyAndReplicaFinishesALogin(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	var groups, want []string
	for i := range 40 {
		groups = append(groups, fmt.Sprintf("group-%02d", i))
		want = append(want, fmt.Sprintf("role-of-a-team-%02d", i))
	}
	f.mapRoles("corp", groups, want)
	f.provider.SetFaults(oidctest.Faults{Claims: func(m map[string]any) { m["groups"] = groups }})
	c := newClient(t)
	back := f.begin(c)
	other := proxyIdentity
	other.Name, other.ID = "proxy-2", "fedcba9876543210fedcba9876543210"

	identified, err := f.replica(7).Identify(t.Context(), other, back)
	f.must(err)
	if len(identified.Attempt) > 512 {
		t.Errorf("got a cookie of %d bytes for 40 roles, want a reference", len(identified.Attempt))
	}
	f.Service = f.replica(7)
	page := f.show(identified.Attempt)
	body, err := json.Marshal(f.code(page.secret))
	f.must(err)
	proved, err := f.replica(7).Prove(t.Context(), other, authrpc.ProveFactorRequest{
		Attempt:  identified.Attempt,
		Response: authrpc.FactorResponse{Kind: authrpc.TOTP, Body: body},
	})
	f.must(err)
	if len(proved.RecoveryCodes) != 10 {
		t.Errorf("got %d recovery codes, want 10", len(proved.RecoveryCodes))
	}
	assured, err := f.redeem(c.redeem(codeOf(t, proved, c)))
	f.must(err)
	if got := assured.Who().Roles; !slices.Equal(got, want) || assured.Proxy().Name != "proxy-2" {
		t.Errorf("got roles %q by %s, want all 40 by the last proxy", got, assured.Proxy().Name)
	}
}

func TestNewRefusesAnIncompleteConfig(t *testing.T) {
	t.Parallel()
	if _, err := login.New(login.Config{}); !fault.Is(err, fault.Internal) {
		t.Errorf("got %v, want it refused", err)
	}
}

// A sealed attempt must fit into a cookie and not show its content. A user with too many claims is refused
// at Identify, and that is an audit event because the user is identified.
func TestAttemptFitsACookieAndIsSealed(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	c := newClient(t)
	res, err := f.Begin(t.Context(), proxyIdentity, c.begin())
	f.must(err)
	identified := f.identify(c)
	for _, text := range []string{res.Attempt, identified.attempt} {
		if len(text) > 3800 || strings.Contains(text, c.state) {
			t.Errorf("got an attempt of %d bytes, want one that fits and is sealed", len(text))
		}
	}
	f.provider.SetFaults(oidctest.Faults{
		Claims: func(m map[string]any) { m["uid"] = strings.Split(strings.Repeat("somebody ", 400), " ") },
	})
	_, err = f.Identify(t.Context(), proxyIdentity, f.begin(c))
	f.wantFault(err, fault.Exhausted, "fewer")
	got := f.events(audit.LoginRefused)
	if len(got) != 1 || got[0].Actor.Name != "alice@example.com" ||
		got[0].Proxy.Name != proxyIdentity.Name || got[0].From == "" {
		t.Errorf("got %+v, want an event about the refusal of an identified user", got)
	}
}

// The same attempt may be tried again after a wrong code. Five wrong codes in a row lock the user out;
// during the lockout nothing is written.
func TestWrongCodesMayBeCorrectedUntilLockout(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	secret, _ := f.enrol(newClient(t))
	c := newClient(t)
	identified := f.identify(c)
	if identified.secret != "" {
		t.Fatal("got an enrolment for a user who has a factor")
	}
	wrong := "000000"
	if f.code(secret) == wrong {
		wrong = "000001"
	}
	for range 4 {
		_, err := f.prove(identified.attempt, wrong)
		f.wantFault(err, fault.Denied, "wrong")
	}
	proved, err := f.prove(identified.attempt, f.code(secret))
	f.must(err)
	_, err = f.prove(identified.attempt, f.code(secret))
	f.wantFault(err, fault.Expired, "is finished")
	if _, err := f.redeem(c.redeem(codeOf(t, proved, c))); err != nil {
		t.Error(err)
	}
	f.advance(time.Minute)
	identified = f.identify(newClient(t))
	for range 4 {
		_, err := f.prove(identified.attempt, wrong)
		f.wantFault(err, fault.Denied, "wrong")
	}
	_, err = f.prove(identified.attempt, wrong)
	f.wantFault(err, fault.Exhausted, "try again in 30s")
	f.noWrites(func() {
		_, err = f.prove(identified.attempt, f.code(secret))
		f.wantFault(err, fault.Exhausted, "try again in 30s")
	})
	for _, e := range f.events(audit.LoginRefused) {
		if e.From != "192.0.2.7" || e.Proxy.Name != proxyIdentity.Name ||
			e.Actor.Name != "alice@example.com" || statetest.Body[audit.LoginRefusal](t, e).Reason == "" {
			t.Errorf("got event %+v, want user, address, proxy and reason", e)
		}
	}
}

func TestFirstConfirmedEnrolmentWins(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	one, two := f.identify(newClient(t)), f.identify(newClient(t))
	if _, err := f.prove(one.attempt, f.code(one.secret)); err != nil {
		t.Fatal(err)
	}
	_, err := f.prove(two.attempt, f.code(two.secret))
	f.wantFault(err, fault.Expired, "already enrolled")
}

// Twenty requests enter the same TOTP code at once. Exactly one of them may log in.
func TestConcurrentUseOfOneCodeLogsInOnce(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	secret, _ := f.enrol(newClient(t))
	identified, code := f.identify(newClient(t)), f.code(secret)
	var logins atomic.Int32
	var all sync.WaitGroup
	for range 20 {
		all.Go(func() {
			if _, err := f.prove(identified.attempt, code); err == nil {
				logins.Add(1)
			} else if !fault.Is(err, fault.Denied) && !fault.Is(err, fault.Expired) {
				t.Errorf("got %v, want the code or the attempt used", err)
			}
		})
	}
	all.Wait()
	if got := logins.Load(); got != 1 {
		t.Errorf("got %d logins by one code, want 1", got)
	}
	if got := f.events(audit.LoginSucceeded); len(got) != 2 { // the enrolment and this one
		t.Errorf("got %d successes recorded, want 2", len(got))
	}
}

func TestRecoveryCodesLogIn(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	c := newClient(t)
	identified := f.identify(c)
	first, err := f.prove(identified.attempt, f.code(identified.secret))
	f.must(err)
	proved, err := f.prove(f.identify(c).attempt, first.RecoveryCodes[9])
	f.must(err)
	assured, err := f.redeem(c.redeem(codeOf(t, proved, c)))
	if err != nil || assured.Who().Factor != "recovery" {
		t.Errorf("got factor %q and %v, want recovery", assured.Who().Factor, err)
	}
}

// A stolen one-time code cannot be redeemed with another verifier or other keys, and trying so does not
// spoil it for the client that began the login.
func TestOneTimeCodeIsBoundToItsClient(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	c, attacker := newClient(t), newClient(t)
	_, code := f.enrol(c)
	good := c.redeem(code)
	cases := map[string]func(*authrpc.RedeemLoginRequest){
		"another verifier": func(r *authrpc.RedeemLoginRequest) { r.Verifier = attacker.verifier },
		"another SSH key":  func(r *authrpc.RedeemLoginRequest) { r.SSHKey = attacker.sshKey },
		"another TLS key":  func(r *authrpc.RedeemLoginRequest) { r.X509Key = attacker.x509Key },
		"no verifier":      func(r *authrpc.RedeemLoginRequest) { r.Verifier = "" },
		"a long verifier":  func(r *authrpc.RedeemLoginRequest) { r.Verifier = strings.Repeat("v", 129) },
		"another code":     func(r *authrpc.RedeemLoginRequest) { r.Code = strings.Repeat("A", 43) },
		"no code":          func(r *authrpc.RedeemLoginRequest) { r.Code = "" },
		"a long code":      func(r *authrpc.RedeemLoginRequest) { r.Code += "A" },
	}
	f.noWrites(func() {
		for name, change := range cases {
			req := good
			change(&req)
			assured, err := f.redeem(req)
			if k := fault.KindOf(err); k != fault.Denied && k != fault.Expired || fault.Remedy(err) == "" ||
				assured.Who().Kind != "" {
				t.Errorf("%s: got %+v and %v, want nobody", name, assured.Who(), err)
			}
		}
	})
	if _, err := f.redeem(good); err != nil {
		t.Errorf("got %v for the client itself, want the code still valid", err)
	}
	_, err := f.redeem(good)
	f.wantFault(err, fault.Expired, "used already")
}

// If the issuance cannot be committed, the login is not used up: the client tries again. Two commits of one
// login store one issuance.
func TestALoginIsUsedUpByItsIssuance(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	c := newClient(t)
	_, code := f.enrol(c)
	first, err := f.Redeem(t.Context(), c.redeem(code))
	f.must(err)
	malformed := audit.Event{Code: audit.CertIssued} // makes the whole commit fail
	if err := first.Commit()(t.Context(), []json.RawMessage{[]byte(`{}`)}, malformed); err == nil {
		t.Fatal("got a malformed event stored")
	}
	second, err := f.Redeem(t.Context(), c.redeem(code))
	f.must(err)
	f.must(second.Commit()(t.Context(), []json.RawMessage{[]byte(`{"n":2}`)}))
	err = first.Commit()(t.Context(), []json.RawMessage{[]byte(`{"n":1}`)})
	f.wantFault(err, fault.Expired, "used already")
	issued, err := f.state.ReadIssuances(t.Context(), 1, 10)
	if err != nil || len(issued) != 1 || string(issued[0]) != `{"n":2}` {
		t.Errorf("got %s and %v, want the issuance of one commit", issued, err)
	}
}

// Sixteen calls redeem the same one-time code at once. Exactly one may succeed.
func TestConcurrentRedeemSucceedsOnce(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	c := newClient(t)
	_, code := f.enrol(c)
	var got atomic.Int32
	var all sync.WaitGroup
	for range 16 {
		all.Go(func() {
			if _, err := f.redeem(c.redeem(code)); err == nil {
				got.Add(1)
			} else if !fault.Is(err, fault.Expired) {
				t.Errorf("got %v, want expired", err)
			}
		})
	}
	all.Wait()
	if got.Load() != 1 {
		t.Errorf("got %d, want 1", got.Load())
	}
}

func TestOneTimeCodeExpiresAfterAMinute(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	c := newClient(t)
	secret, first := f.enrol(c) // advances 30 s; shows recovery codes, so the code is valid for longer
	code := f.logIn(c, secret)  // advances 30 s
	f.advance(30 * time.Second)
	f.noWrites(func() {
		_, err := f.redeem(c.redeem(code))
		f.wantFault(err, fault.Expired, "start again: tsh login")
	})
	f.advance(5 * time.Minute)
	if _, err := f.redeem(c.redeem(first)); err != nil {
		t.Errorf("got %v after an enrolment, want time to write down the recovery codes", err)
	}
}

func TestStoredHashRedeemsNothing(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	c := newClient(t)
	_, code := f.enrol(c)
	plain := state.CodeHash([]byte(code)[:32])
	if _, err := f.state.PendingLogin(t.Context(), plain); !fault.Is(err, fault.NotFound) {
		t.Errorf("got %v, want the login stored under a hash", err)
	}
	if strings.Contains(f.log.String(), code) {
		t.Error("the log contains a code")
	}
}

// A client commits to a key for which no certificate may be issued. Redeem refuses it before it looks for
// the code.
func TestUnacceptableKeysAreRefused(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	weak, err := rsa.GenerateKey(rand.Reader, 2048)
	f.must(err)
	weakSSH, err := ssh.NewPublicKey(weak.Public())
	f.must(err)
	weakDER, err := x509.MarshalPKIXPublicKey(weak.Public())
	f.must(err)
	_, private, err := ed25519.GenerateKey(rand.Reader)
	f.must(err)
	signer, err := ssh.NewSignerFromKey(private)
	f.must(err)
	cert := &ssh.Certificate{Key: signer.PublicKey(), CertType: ssh.UserCert}
	f.must(cert.SignCert(rand.Reader, signer))
	for name, change := range map[string]func(*client){
		"a certificate":       func(c *client) { c.sshKey = cert.Marshal() },
		"short RSA":           func(c *client) { c.sshKey = weakSSH.Marshal() },
		"short RSA for TLS":   func(c *client) { c.x509Key = weakDER },
		"no key":              func(c *client) { c.sshKey = nil },
		"no TLS key":          func(c *client) { c.x509Key = nil },
		"trailing bytes":      func(c *client) { c.sshKey = append(bytes.Clone(c.sshKey), 0) },
		"trailing bytes, TLS": func(c *client) { c.x509Key = append(bytes.Clone(c.x509Key), 0) },
		"a huge key":          func(c *client) { c.x509Key = make([]byte, 4096) },
	} {
		f.advance(time.Minute)
		c := newClient(t)
		change(&c) // so the challenge commits to the bad key
		_, err := f.redeem(c.redeem(strings.Repeat("A", 43)))
		if !fault.Is(err, fault.Invalid) || fault.Remedy(err) == "" {
			t.Errorf("%s: got %v, want it refused", name, err)
		}
	}
}

func TestUnauthenticatedRefusalsAreLoggedAtABoundedRate(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	const calls = 500
	f.noWrites(func() {
		for i := range calls {
			_, err := f.prove(fmt.Sprintf("made-up-%d", i), "123456")
			f.wantFault(err, fault.Invalid, "start again")
		}
	})
	lines := strings.Count(f.log.String(), "\n")
	if got := f.Refusals(); got.Prove != calls || lines > 60 || int(got.Unlogged)+lines != calls {
		t.Errorf("got %+v and %d lines, want all counted and few logged", got, lines)
	}
}

func TestZeroAssuredIsNobody(t *testing.T) {
	t.Parallel()
	var a login.Assured
	sshKey, x509Key := a.Keys()
	if a.Who().Kind != "" || sshKey != nil || x509Key != nil || a.Proxy().Kind != "" {
		t.Errorf("got %+v, want nobody", a)
	}
}

// An administrator may revoke roles in the minute between the second factor and the certificate.
func TestRolesRevokedBeforeRedeemAreNotGranted(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	c := newClient(t)
	secret, _ := f.enrol(c)
	alice := identity.UserKey{Connector: "corp", Subject: "sub-alice"}
	give := func(roles ...string) {
		user, err := f.state.User(t.Context(), alice)
		f.must(err)
		user.Value.Roles = roles
		f.must(f.state.Users.PutUser(t.Context(), user, user.Value, state.By{Time: time.Now()}))
	}
	give("ops")
	c = newClient(t)
	code := f.logIn(c, secret)
	give()
	assured, err := f.redeem(c.redeem(code))
	if got := strings.Join(assured.Who().Roles, " "); err != nil || got != "dev" {
		t.Errorf("got roles %q, %v, want only those of the connector", got, err)
	}
	f.advance(time.Minute)
	c = newClient(t)
	code = f.logIn(c, secret)
	user, err := f.state.User(t.Context(), alice)
	f.must(err)
	f.must(f.state.Users.RemoveUser(t.Context(), user, state.By{Time: time.Now()}))
	_, err = f.redeem(c.redeem(code))
	f.wantFault(err, fault.Expired, "tsh login")
}
