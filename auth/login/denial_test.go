package login_test

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/threshold-access/threshold/auth/login"
	"github.com/threshold-access/threshold/auth/oidc/oidctest"
	"github.com/threshold-access/threshold/auth/state"
	"github.com/threshold-access/threshold/internal/audit"
	"github.com/threshold-access/threshold/internal/authrpc"
	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/identity"
)

func TestMalformedLoginLinksAreRefused(t *testing.T) {
	l := newFixture(t)
	c := newClient(t)
	cases := map[string]func(*authrpc.BeginLoginRequest){
		"no challenge":         func(r *authrpc.BeginLoginRequest) { r.Challenge = "" },
		"a short challenge":    func(r *authrpc.BeginLoginRequest) { r.Challenge = r.Challenge[1:] },
		"a long challenge":     func(r *authrpc.BeginLoginRequest) { r.Challenge += "A" },
		"no state":             func(r *authrpc.BeginLoginRequest) { r.State = "" },
		"a state with a space": func(r *authrpc.BeginLoginRequest) { r.State = "with a space" },
		"a state too long":     func(r *authrpc.BeginLoginRequest) { r.State = strings.Repeat("s", 129) },
		"a language of two":    func(r *authrpc.BeginLoginRequest) { r.Locale = "en ko" },
		"a connector too long": func(r *authrpc.BeginLoginRequest) { r.Connector = strings.Repeat("c", 65) },
		"an address too long":  func(r *authrpc.BeginLoginRequest) { r.From = strings.Repeat("1", 65) },
	}
	for _, to := range []string{"", "http://localhost:1234/callback", "https://127.0.0.1:1234/callback", "http://127.0.0.1/callback", "http://127.0.0.1:0/callback",
		"http://127.0.0.1:65536/callback", "http://127.0.0.1:1234/callback?x=1", "http://127.0.0.1:1234/callback#x", "http://127.0.0.1:1234/", "http://127.0.0.1:1234/callback/",
		"http://u@127.0.0.1:1234/callback", "http://127.0.0.1:1234@evil.example/callback", "http://127.0.0.2:1234/callback", "http://127.1:1234/callback",
		"http://[::1%25lo]:1234/callback", "http://[::ffff:127.0.0.1]:1234/callback", "http://evil.example:1234/callback", "HTTP://127.0.0.1:1234/callback", "http://127.0.0.1.:1234/callback",
		"http://127.0.0.1:01234/callback", "http://127.0.0.1:1234/%63allback", "http://127.0.0.1%2eevil.example:1234/callback", "http://127.0.0.1:1234\\@evil.example/callback",
		"http://[::1]:1234@evil.example/callback", "http://[0:0:0:0:0:0:0:1]:1234/callback", "javascript:alert(1)", "//127.0.0.1:1234/callback", " " + callback, callback + "\n"} {
		cases["back to "+to] = func(r *authrpc.BeginLoginRequest) { r.Callback = to }
	}
	l.noWrites(func() {
		for name, change := range cases {
			req := c.begin()
			change(&req)
			res, err := l.Begin(t.Context(), proxyIdentity, req)
			if !fault.Is(err, fault.Invalid) || fault.Remedy(err) == "" || res.Attempt != "" {
				t.Errorf("%s: got %+v and %v, want it refused", name, res, err)
			}
		}
	})
	req := c.begin()
	req.Callback = "http://[::1]:1/callback"
	if _, err := l.Begin(t.Context(), proxyIdentity, req); err != nil {
		t.Errorf("got %v for IPv6 loopback, want it allowed", err)
	}
	if got := l.Refusals(); int(got.Begin) != len(cases) {
		t.Errorf("got %+v, want all %d counted", got, len(cases))
	}
}

func TestForeignOriginsAreRefused(t *testing.T) {
	l := newFixture(t)
	for origin, kind := range map[string]fault.Kind{"": fault.Invalid, "http://proxy.example.com:8443": fault.Invalid, origin + "/": fault.Invalid, origin + "?": fault.Invalid,
		"https://u@proxy.example.com:8443": fault.Invalid, "https://" + strings.Repeat("x", 400): fault.Invalid, "https://evil.example": fault.Denied} {
		req := newClient(t).begin()
		req.PublicOrigin = origin
		if _, err := l.Begin(t.Context(), proxyIdentity, req); !fault.Is(err, kind) {
			t.Errorf("%q: got %v, want %s", origin, err, kind)
		}
	}
}

func TestOnlyProxiesMayCall(t *testing.T) {
	l := newFixture(t)
	for _, kind := range []identity.Kind{"", identity.User, identity.Node, identity.Auth} {
		by := proxyIdentity
		by.Kind = kind
		_, err := l.Begin(t.Context(), by, newClient(t).begin())
		l.wantFault(err, fault.Denied, "only a proxy")
		_, err = l.Identify(t.Context(), by, authrpc.FinishOIDCRequest{})
		l.wantFault(err, fault.Denied, "only a proxy")
		_, err = l.Prove(t.Context(), by, authrpc.ProveFactorRequest{})
		l.wantFault(err, fault.Denied, "only a proxy")
	}
}

func TestConnectorIsChosen(t *testing.T) {
	l := newFixture(t)
	l.connect("other")
	res, err := l.Begin(t.Context(), proxyIdentity, newClient(t).begin())
	if err != nil || len(res.Connectors) != 2 || res.Attempt != "" ||
		res.Connectors[0] != (authrpc.Connector{Name: "corp", DisplayName: "Corp"}) {
		t.Errorf("got %+v and %v, want both to choose from and nothing begun", res, err)
	}
	req := newClient(t).begin()
	req.Connector = "crop"
	_, err = l.Begin(t.Context(), proxyIdentity, req)
	l.wantFault(err, fault.NotFound, "corp, other")
	for _, name := range []string{"corp", "other"} {
		kept, err := l.vault.Connector(t.Context(), name)
		l.must(err)
		l.must(l.vault.RemoveConnector(t.Context(), kept))
	}
	_, err = l.Begin(t.Context(), proxyIdentity, newClient(t).begin())
	l.wantFault(err, fault.Unavailable, "tsh apply")
}

// begin starts a login and returns what the provider's page leads back with.
func (l *fixture) begin(c client) authrpc.FinishOIDCRequest {
	l.t.Helper()
	res, err := l.Begin(l.t.Context(), proxyIdentity, c.begin())
	l.must(err)
	return l.signIn(res, "alice@example.com", "wonderland")
}

func TestCallbackOfAnotherBrowserIsRefused(t *testing.T) {
	l := newFixture(t)
	mine, theirs := l.begin(newClient(t)), l.begin(newClient(t))
	mixed := theirs
	mixed.Attempt = mine.Attempt // the attacker's code and state, in the victim's browser
	l.noWrites(func() {
		_, err := l.Identify(t.Context(), proxyIdentity, mixed)
		l.wantFault(err, fault.Invalid, "does not belong to this login")
		mixed.State = mine.State // and with the victim's state
		_, err = l.Identify(t.Context(), proxyIdentity, mixed)
		l.wantFault(err, fault.Invalid, "does not know this code")
		elsewhere := mine
		elsewhere.Connector = "guests" // another provider sent the browser on
		_, err = l.Identify(t.Context(), proxyIdentity, elsewhere)
		l.wantFault(err, fault.Denied, "another identity provider")
		mine.Issuer = "https://evil.example"
		_, err = l.Identify(t.Context(), proxyIdentity, mine)
		l.wantFault(err, fault.Invalid, "another identity provider")
	})
}

func TestProviderRefusalIsReportedAndNotStored(t *testing.T) {
	l := newFixture(t)
	for _, tt := range []struct {
		faults oidctest.Faults
		kind   fault.Kind
		says   string
	}{
		{oidctest.Faults{Refuse: "access_denied"}, fault.Denied, "access_denied"},
		{oidctest.Faults{Claims: func(c map[string]any) { c["nonce"] = "x" }}, fault.Invalid, "does not belong"},
		{oidctest.Faults{Claims: func(c map[string]any) { c["iat"] = l.clock().Add(10 * time.Minute).Unix() }}, fault.Invalid, "10m0s ahead"},
		{oidctest.Faults{Claims: func(c map[string]any) { c["email_verified"] = false }}, fault.Denied, "not verified"},
	} {
		l.provider.SetFaults(tt.faults)
		req := l.begin(newClient(t))
		l.noWrites(func() {
			_, err := l.Identify(t.Context(), proxyIdentity, req)
			l.wantFault(err, tt.kind, tt.says)
		})
	}
	req := l.begin(newClient(t))
	l.provider.SetFaults(oidctest.Faults{Down: true})
	_, err := l.Identify(t.Context(), proxyIdentity, req)
	l.wantFault(err, fault.Unavailable, "cannot be reached")
}

func TestNothingIsStoredBeforeTheFactor(t *testing.T) {
	l := newFixture(t)
	l.noWrites(func() { l.identify(newClient(t)) })
}

func TestAttemptIsBoundToStageTimeAndContent(t *testing.T) {
	l := newFixture(t)
	req := l.begin(newClient(t))
	i := l.identify(newClient(t))
	l.noWrites(func() {
		_, err := l.prove(req.Attempt, "123456")
		l.wantFault(err, fault.Invalid, "does not belong to a login of this cluster at this step")
		swapped := req
		swapped.Attempt = i.Attempt
		_, err = l.Identify(t.Context(), proxyIdentity, swapped)
		l.wantFault(err, fault.Invalid, "at this step")
		for at := 0; at < len(i.Attempt); at += 7 {
			b := []byte(i.Attempt)
			b[at] ^= 1
			if _, err := l.prove(string(b), "123456"); !fault.Is(err, fault.Invalid) {
				t.Errorf("byte %d altered: got %v, want it refused", at, err)
			}
		}
		for _, text := range []string{i.Attempt[:len(i.Attempt)-4], i.Attempt + "AAAA", "AQ", "!", strings.Repeat("A", 5000)} {
			_, err = l.prove(text, "123456")
			l.wantFault(err, fault.Invalid, "start again")
		}
		_, err = l.prove("", "123456")
		l.wantFault(err, fault.Invalid, "cookies")
		l.advance(login.AttemptLife)
		_, err = l.prove(i.Attempt, l.code(i.Enrol.Secret))
		l.wantFault(err, fault.Expired, "start again: tsh login")
		_, err = l.Identify(t.Context(), proxyIdentity, req)
		l.wantFault(err, fault.Expired, "start again: tsh login")
	})
}

func TestAttemptContinuesOnAnotherReplicaOfTheCluster(t *testing.T) {
	l := newFixture(t)
	req := l.begin(newClient(t))
	_, err := l.replica(8).Identify(t.Context(), proxyIdentity, req)
	l.wantFault(err, fault.Invalid, "of this cluster")
	if _, err := l.replica(7).Identify(t.Context(), proxyIdentity, req); err != nil {
		t.Errorf("got %v at another replica, want it to go on", err)
	}
}

func TestNewRefusesAnIncompleteConfig(t *testing.T) {
	if _, err := login.New(login.Config{}); !fault.Is(err, fault.Internal) {
		t.Errorf("got %v, want it refused", err)
	}
}

func TestAttemptFitsACookieAndIsSealed(t *testing.T) {
	l := newFixture(t)
	c := newClient(t)
	res, err := l.Begin(t.Context(), proxyIdentity, c.begin())
	l.must(err)
	i := l.identify(c)
	for _, text := range []string{res.Attempt, i.Attempt} {
		if len(text) > 3800 || strings.Contains(text, c.state) {
			t.Errorf("got an attempt of %d bytes, want one that fits and is sealed", len(text))
		}
	}
	l.provider.SetFaults(oidctest.Faults{
		Claims: func(m map[string]any) { m["uid"] = strings.Split(strings.Repeat("somebody ", 400), " ") },
	})
	_, err = l.Identify(t.Context(), proxyIdentity, l.begin(c))
	l.wantFault(err, fault.Exhausted, "fewer")
	if got := l.events(audit.LoginRefused); len(got) != 1 || got[0].User != "alice@example.com" ||
		got[0].Proxy != proxyIdentity.Name ||
		got[0].From == "" {
		t.Errorf("got %+v, want the refusal recorded: the provider had vouched", got)
	}
}

func TestWrongCodesMayBeCorrectedUntilLockout(t *testing.T) {
	l := newFixture(t)
	secret, _ := l.enrol(newClient(t))
	c := newClient(t)
	i := l.identify(c)
	if i.Enrol != nil {
		t.Fatal("got an enrolment for one who has a factor")
	}
	wrong := "000000"
	if l.code(secret) == wrong {
		wrong = "000001"
	}
	for range 4 {
		_, err := l.prove(i.Attempt, wrong)
		l.wantFault(err, fault.Denied, "wrong")
	}
	p, err := l.prove(i.Attempt, l.code(secret))
	l.must(err)
	_, err = l.prove(i.Attempt, l.code(secret))
	l.wantFault(err, fault.Denied, "used already")
	if _, err := l.Redeem(t.Context(), c.redeem(codeOf(t, p, c))); err != nil {
		t.Error(err)
	}
	l.advance(time.Minute)
	for range 4 {
		_, err := l.prove(i.Attempt, wrong)
		l.wantFault(err, fault.Denied, "wrong")
	}
	_, err = l.prove(i.Attempt, wrong)
	l.wantFault(err, fault.Exhausted, "try again in 30s")
	l.noWrites(func() {
		_, err = l.prove(i.Attempt, l.code(secret))
		l.wantFault(err, fault.Exhausted, "try again in 30s")
	})
	for _, e := range l.events(audit.LoginRefused) {
		if e.From != "192.0.2.7" || e.Proxy != proxyIdentity.Name || e.User != "alice@example.com" ||
			e.Reason == "" {
			t.Errorf("got event %+v, want who, whence and why", e)
		}
	}
}

func TestFirstConfirmedEnrolmentWins(t *testing.T) {
	l := newFixture(t)
	one, two := l.identify(newClient(t)), l.identify(newClient(t))
	if _, err := l.prove(one.Attempt, l.code(one.Enrol.Secret)); err != nil {
		t.Fatal(err)
	}
	_, err := l.prove(two.Attempt, l.code(two.Enrol.Secret))
	l.wantFault(err, fault.Expired, "already enrolled")
}

func TestConcurrentUseOfOneCodeLogsInOnce(t *testing.T) {
	l := newFixture(t)
	secret, _ := l.enrol(newClient(t))
	i, code := l.identify(newClient(t)), l.code(secret)
	var in atomic.Int32
	var all sync.WaitGroup
	for range 20 {
		all.Go(func() {
			if _, err := l.prove(i.Attempt, code); err == nil {
				in.Add(1)
			} else if !fault.Is(err, fault.Denied) {
				t.Errorf("got %v, want denied", err)
			}
		})
	}
	all.Wait()
	if got := in.Load(); got != 1 {
		t.Errorf("got %d logins by one code, want 1", got)
	}
	if got := l.events(audit.LoginSucceeded); len(got) != 2 { // the enrolment and this
		t.Errorf("got %d successes recorded, want 2", len(got))
	}
}

func TestRecoveryCodesLogIn(t *testing.T) {
	l := newFixture(t)
	c := newClient(t)
	i := l.identify(c)
	first, err := l.prove(i.Attempt, l.code(i.Enrol.Secret))
	l.must(err)
	p, err := l.prove(l.identify(c).Attempt, first.RecoveryCodes[9])
	l.must(err)
	a, err := l.Redeem(t.Context(), c.redeem(codeOf(t, p, c)))
	if err != nil || a.Who().Factor != "recovery" {
		t.Errorf("got factor %q and %v, want recovery", a.Who().Factor, err)
	}
}

func TestOneTimeCodeIsBoundToItsClient(t *testing.T) {
	l := newFixture(t)
	c, thief := newClient(t), newClient(t)
	_, code := l.enrol(c)
	good := c.redeem(code)
	cases := map[string]func(*authrpc.RedeemLoginRequest){
		"another verifier": func(r *authrpc.RedeemLoginRequest) { r.Verifier = thief.verifier },
		"another SSH key":  func(r *authrpc.RedeemLoginRequest) { r.SSHKey = thief.sshKey },
		"another TLS key":  func(r *authrpc.RedeemLoginRequest) { r.X509Key = thief.x509Key },
		"no verifier":      func(r *authrpc.RedeemLoginRequest) { r.Verifier = "" },
		"a long verifier":  func(r *authrpc.RedeemLoginRequest) { r.Verifier = strings.Repeat("v", 129) },
		"another code":     func(r *authrpc.RedeemLoginRequest) { r.Code = strings.Repeat("A", 43) },
		"no code":          func(r *authrpc.RedeemLoginRequest) { r.Code = "" },
		"a long code":      func(r *authrpc.RedeemLoginRequest) { r.Code += "A" },
	}
	l.noWrites(func() {
		for name, change := range cases {
			req := good
			change(&req)
			a, err := l.Redeem(t.Context(), req)
			if k := fault.KindOf(err); k != fault.Denied && k != fault.Expired || fault.Remedy(err) == "" ||
				a.Who().Kind != "" {
				t.Errorf("%s: got %+v and %v, want nobody", name, a.Who(), err)
			}
		}
	})
	if _, err := l.Redeem(t.Context(), good); err != nil {
		t.Errorf("got %v for the client itself, want the code unspoilt", err)
	}
	_, err := l.Redeem(t.Context(), good)
	l.wantFault(err, fault.Expired, "used already")
}

func TestConcurrentRedeemSucceedsOnce(t *testing.T) {
	l := newFixture(t)
	c := newClient(t)
	_, code := l.enrol(c)
	var got atomic.Int32
	var all sync.WaitGroup
	for range 16 {
		all.Go(func() {
			if _, err := l.Redeem(t.Context(), c.redeem(code)); err == nil {
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
	l := newFixture(t)
	c := newClient(t)
	secret, first := l.enrol(c) // takes half a minute, and shows recovery codes
	code := l.logIn(c, secret)  // again half a minute
	l.advance(30 * time.Second)
	l.noWrites(func() {
		_, err := l.Redeem(t.Context(), c.redeem(code))
		l.wantFault(err, fault.Expired, "start again: tsh login")
	})
	l.advance(5 * time.Minute)
	if _, err := l.Redeem(t.Context(), c.redeem(first)); err != nil {
		t.Errorf("got %v for one who wrote down recovery codes first, want time for it", err)
	}
}

func TestStoredHashRedeemsNothing(t *testing.T) {
	l := newFixture(t)
	c := newClient(t)
	_, code := l.enrol(c)
	if _, err := l.state.PendingLogin(t.Context(), state.CodeHash([]byte(code)[:32])); !fault.Is(
		err,
		fault.NotFound,
	) {
		t.Errorf("got %v, want the login kept under a hash", err)
	}
	if strings.Contains(l.log.String(), code) {
		t.Error("the log shows a code")
	}
}

func TestUnacceptableKeysAreRefused(t *testing.T) {
	l := newFixture(t)
	weak, err := rsa.GenerateKey(rand.Reader, 2048)
	l.must(err)
	weakSSH, err := ssh.NewPublicKey(weak.Public())
	l.must(err)
	weakDER, err := x509.MarshalPKIXPublicKey(weak.Public())
	l.must(err)
	_, private, err := ed25519.GenerateKey(rand.Reader)
	l.must(err)
	signer, err := ssh.NewSignerFromKey(private)
	l.must(err)
	cert := &ssh.Certificate{Key: signer.PublicKey(), CertType: ssh.UserCert}
	l.must(cert.SignCert(rand.Reader, signer))
	for name, change := range map[string]func(*client){
		"a certificate":     func(c *client) { c.sshKey = cert.Marshal() },
		"short RSA":         func(c *client) { c.sshKey = weakSSH.Marshal() },
		"short RSA for TLS": func(c *client) { c.x509Key = weakDER },
		"no key":            func(c *client) { c.sshKey = nil },
		"no TLS key":        func(c *client) { c.x509Key = nil },
		"bytes behind":      func(c *client) { c.sshKey = append(bytes.Clone(c.sshKey), 0) },
		"bytes behind TLS":  func(c *client) { c.x509Key = append(bytes.Clone(c.x509Key), 0) },
		"a huge key":        func(c *client) { c.x509Key = make([]byte, 4096) },
	} {
		l.advance(time.Minute)
		c := newClient(t)
		change(&c) // the challenge commits to the bad key
		_, err := l.Redeem(t.Context(), c.redeem(strings.Repeat("A", 43)))
		if !fault.Is(err, fault.Invalid) || fault.Remedy(err) == "" {
			t.Errorf("%s: got %v, want it refused", name, err)
		}
	}
}

func TestUnauthenticatedRefusalsAreLoggedAtABoundedRate(t *testing.T) {
	l := newFixture(t)
	const strangers = 500
	l.noWrites(func() {
		for i := range strangers {
			_, err := l.prove(fmt.Sprintf("made-up-%d", i), "123456")
			l.wantFault(err, fault.Invalid, "start again")
		}
	})
	lines := strings.Count(l.log.String(), "\n")
	if got := l.Refusals(); got.Prove != strangers || lines > 60 || int(got.Unlogged)+lines != strangers {
		t.Errorf("got %+v and %d lines, want all counted and few logged", got, lines)
	}
}

func TestZeroAssuredIsNobody(t *testing.T) {
	var a login.Assured
	sshKey, x509Key := a.Keys()
	if a.Who().Kind != "" || sshKey != nil || x509Key != nil || a.Proxy().Kind != "" {
		t.Errorf("got %+v, want nobody", a)
	}
}

// Between the second factor and the certificate there is a minute in which an administrator may act.
func TestRolesRevokedBeforeRedeemAreNotGranted(t *testing.T) {
	l := newFixture(t)
	c := newClient(t)
	secret, _ := l.enrol(c)
	alice := identity.UserKey{Connector: "corp", Subject: "sub-alice"}
	give := func(roles ...string) {
		u, err := l.state.User(t.Context(), alice)
		l.must(err)
		u.Value.Roles = roles
		l.must(l.state.Users.PutUser(t.Context(), u, u.Value))
	}
	give("ops")
	c = newClient(t)
	code := l.logIn(c, secret)
	give()
	a, err := l.Redeem(t.Context(), c.redeem(code))
	if got := strings.Join(a.Who().Roles, " "); err != nil || got != "dev" {
		t.Errorf("got roles %q, %v, want the connector's alone", got, err)
	}
	l.advance(time.Minute)
	c = newClient(t)
	code = l.logIn(c, secret)
	u, err := l.state.User(t.Context(), alice)
	l.must(err)
	l.must(l.state.Users.RemoveUser(t.Context(), u))
	_, err = l.Redeem(t.Context(), c.redeem(code))
	l.wantFault(err, fault.Expired, "tsh login")
}
