package login_test

import (
	"net"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/threshold-access/threshold/auth/login"
	"github.com/threshold-access/threshold/internal/authrpc"
	"github.com/threshold-access/threshold/internal/fault"
)

// headlessMachine is a machine without a browser, as auth is told of it.
var headlessMachine = callerAt("203.0.113.9:40001")

func callerAt(addr string) authrpc.Caller {
	return authrpc.Caller{
		Addr:  net.TCPAddrFromAddrPort(netip.MustParseAddrPort(addr)),
		Proxy: proxyIdentity.Name,
	}
}

func (c client) keys() authrpc.Keys {
	return authrpc.Keys{Verifier: c.verifier, SSHKey: c.sshKey, X509Key: c.x509Key}
}

func (l *fixture) beginHeadless(c client) authrpc.BeginHeadlessResponse {
	l.t.Helper()
	res, err := l.BeginHeadless(headlessMachine, authrpc.BeginHeadlessRequest{Challenge: c.begin().Challenge})
	l.must(err)
	return res
}

func openLink(handle string, confirmed bool) authrpc.BeginLoginRequest {
	return authrpc.BeginLoginRequest{
		Handle:       handle,
		Confirmed:    confirmed,
		PublicOrigin: origin,
		From:         "192.0.2.7",
	}
}

// approve does for the handle what a person does in a browser, and returns what the page says at the end.
func (l *fixture) approve(handle string) authrpc.ProveFactorResponse {
	l.t.Helper()
	begun, err := l.Begin(l.t.Context(), proxyIdentity, openLink(handle, true))
	l.must(err)
	i, err := l.Identify(l.t.Context(), proxyIdentity, l.signIn(begun, "alice@example.com", "wonderland"))
	l.must(err)
	if i.Headless == nil || i.Headless.From != "203.0.113.9" {
		l.t.Errorf("got %+v beside the second factor, want whom it is for", i.Headless)
	}
	done, err := l.prove(i.Attempt, l.code(i.Enrol.Secret))
	l.must(err)
	return done
}

func (l *fixture) redeemHeadless(by authrpc.Caller, handle string, c client) (login.Assured, bool, error) {
	return l.RedeemHeadless(l.t.Context(), by, authrpc.RedeemHeadlessRequest{Handle: handle, Keys: c.keys()})
}

func TestHeadlessLoginIsApprovedInAnotherBrowser(t *testing.T) {
	l := newFixture(t)
	c := newClient(t)
	var asked authrpc.BeginHeadlessResponse
	l.noWrites(func() {
		asked = l.beginHeadless(c)
		seen, err := l.Begin(t.Context(), proxyIdentity, openLink(asked.Handle, false))
		l.must(err)
		if seen.Headless == nil || seen.Headless.From != "203.0.113.9" || seen.Headless.Code != asked.Code ||
			seen.Redirect != "" ||
			seen.Attempt != "" {
			t.Errorf("got %+v before the person agreed, want who asks and nothing else", seen)
		}
		if _, ok, err := l.redeemHeadless(headlessMachine, asked.Handle, c); ok || err != nil {
			t.Errorf("got %v, %v before anyone approved, want to wait", ok, err)
		}
	})
	if !regexp.MustCompile(`^[B-Z]{4}-[B-Z]{4}$`).MatchString(asked.Code) || asked.From != "203.0.113.9" ||
		asked.PollInterval <= 0 {
		t.Errorf("got %+v, want a code to compare and the machine's address", asked)
	}
	if done := l.approve(asked.Handle); done.Redirect != "" || done.Name != "alice@example.com" ||
		len(done.RecoveryCodes) == 0 {
		t.Errorf("got %+v, want an end without a way back to a loopback", done)
	}
	a, ok, err := l.redeemHeadless(callerAt("203.0.113.9:40777"), asked.Handle, c)
	if err != nil || !ok || a.Who().Name != "alice@example.com" || a.Who().Factor != "totp" ||
		a.MaxTTL() != login.HeadlessLife {
		t.Fatalf("got %+v, %v, %v, want alice for an hour at most", a.Who(), ok, err)
	}
	if want := netip.MustParsePrefix("203.0.113.9/32"); !slices.Equal(
		a.Who().SourceAddresses,
		[]netip.Prefix{want},
	) {
		t.Errorf("got it pinned to %v, want %v", a.Who().SourceAddresses, want)
	}
	if _, ok, err := l.redeemHeadless(headlessMachine, asked.Handle, c); ok || err != nil {
		t.Errorf("got %v, %v for the second time, want it spent", ok, err)
	}
}

// Whoever else has the link comes too late, and is told so: the machine goes on as the first of them.
func TestHeadlessLoginIsApprovedOnce(t *testing.T) {
	l := newFixture(t)
	c := newClient(t)
	asked := l.beginHeadless(c)
	begun, err := l.Begin(t.Context(), proxyIdentity, openLink(asked.Handle, true))
	l.must(err)
	bob, err := l.Identify(t.Context(), proxyIdentity, l.signIn(begun, "bob@example.com", "builder"))
	l.must(err)
	l.approve(asked.Handle)
	_, err = l.prove(bob.Attempt, l.code(bob.Enrol.Secret))
	l.wantFault(err, fault.Expired, "approved already")
	if a, ok, err := l.redeemHeadless(headlessMachine, asked.Handle, c); !ok || err != nil ||
		a.Who().Name != "alice@example.com" {
		t.Errorf("got %q, %v, %v, want the first to have approved", a.Who().Name, ok, err)
	}
}

func TestHeadlessLoginIsPinnedToAnIPv6Network(t *testing.T) {
	l := newFixture(t)
	c := newClient(t)
	asked, err := l.BeginHeadless(
		callerAt("[2001:db8:1:2:3::4]:40001"),
		authrpc.BeginHeadlessRequest{Challenge: c.begin().Challenge},
	)
	l.must(err)
	if asked.From != "2001:db8:1:2:3::4" {
		t.Errorf("got %q, want the address whole", asked.From)
	}
	begun, err := l.Begin(t.Context(), proxyIdentity, openLink(asked.Handle, true))
	l.must(err)
	i, err := l.Identify(t.Context(), proxyIdentity, l.signIn(begun, "alice@example.com", "wonderland"))
	l.must(err)
	_, err = l.prove(i.Attempt, l.code(i.Enrol.Secret))
	l.must(err)
	a, ok, err := l.redeemHeadless(
		callerAt("[2001:db8:1:2:ffff::1]:9"),
		asked.Handle,
		c,
	) // hosts change the rest of it every day
	if err != nil || !ok || a.Who().SourceAddresses[0] != netip.MustParsePrefix("2001:db8:1:2::/64") {
		t.Errorf("got %v, %v, %v, want it pinned to the /64", a.Who().SourceAddresses, ok, err)
	}
}

func TestInvalidHeadlessLoginsAreRefused(t *testing.T) {
	l := newFixture(t)
	c, thief := newClient(t), newClient(t)
	asked := l.beginHeadless(c)
	l.noWrites(func() {
		for name, tt := range map[string]struct {
			by     authrpc.Caller
			handle string
			who    client
			kind   fault.Kind
		}{
			"from another address":              {callerAt("198.51.100.1:40001"), asked.Handle, c, fault.Denied},
			"from nowhere":                      {authrpc.Caller{}, asked.Handle, c, fault.Denied},
			"by another client":                 {headlessMachine, asked.Handle, thief, fault.Denied},
			"with a handle of nobody's":         {headlessMachine, "x" + asked.Handle[1:], c, fault.Invalid},
			"with none":                         {headlessMachine, "", c, fault.Invalid},
			"with an attempt of a login's step": {headlessMachine, l.identify(c).Attempt, c, fault.Invalid},
		} {
			_, ok, err := l.redeemHeadless(tt.by, tt.handle, tt.who)
			if ok || !fault.Is(err, tt.kind) || fault.Remedy(err) == "" {
				t.Errorf("%s: got %v, %v, want %s with a remedy", name, ok, err, tt.kind)
			}
		}
		for name, challenge := range map[string]string{"no challenge": "", "an odd one": strings.Repeat("=", 43)} {
			if _, err := l.BeginHeadless(headlessMachine, authrpc.BeginHeadlessRequest{Challenge: challenge}); !fault.Is(
				err,
				fault.Invalid,
			) {
				t.Errorf("%s: got %v, want invalid", name, err)
			}
		}
		if _, err := l.BeginHeadless(authrpc.Caller{}, authrpc.BeginHeadlessRequest{Challenge: c.begin().Challenge}); err == nil {
			t.Error("got a handle for a machine at no address")
		}
		both := openLink(asked.Handle, true)
		both.Callback = callback
		if _, err := l.Begin(t.Context(), proxyIdentity, both); !fault.Is(err, fault.Invalid) {
			t.Errorf("a handle and a callback: got %v, want invalid", err)
		}
	})
	if n := l.Refusals().Headless; n != 9 {
		t.Errorf("got %d refusals counted, want 9", n)
	}
	l.approve(asked.Handle)
	if _, ok, err := l.redeemHeadless(headlessMachine, asked.Handle, thief); ok ||
		!fault.Is(err, fault.Denied) {
		t.Errorf("got %v, %v for other keys once it is approved, want denied", ok, err)
	}
	if _, ok, err := l.redeemHeadless(headlessMachine, asked.Handle, c); !ok || err != nil {
		t.Errorf("got %v, %v after others tried, want it still there", ok, err)
	}
	l.advance(login.AttemptLife + time.Second)
	if _, _, err := l.redeemHeadless(headlessMachine, asked.Handle, c); !fault.Is(err, fault.Expired) {
		t.Errorf("got %v for an old handle, want expired", err)
	}
	if _, err := l.Begin(t.Context(), proxyIdentity, openLink(asked.Handle, false)); !fault.Is(
		err,
		fault.Expired,
	) {
		t.Errorf("got %v for an old link, want expired", err)
	}
}
