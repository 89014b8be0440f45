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
	"github.com/threshold-access/threshold/auth/state/statetest"
	"github.com/threshold-access/threshold/internal/audit"
	"github.com/threshold-access/threshold/internal/authrpc"
	"github.com/threshold-access/threshold/internal/fault"
)

// headlessMachine is the caller on a machine without a browser.
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

func (f *fixture) beginHeadless(c client) authrpc.BeginHeadlessResponse {
	f.t.Helper()
	res, err := f.BeginHeadless(headlessMachine, authrpc.BeginHeadlessRequest{
		Challenge: c.begin().Challenge,
		Host:      "build-1",
	})
	f.must(err)
	return res
}

func openLink(handle string, confirmed bool) authrpc.BeginLoginRequest {
	return authrpc.BeginLoginRequest{
		Handle:       handle,
		Confirmed:    confirmed,
		PublicOrigin: origin,
		From:         netip.MustParseAddr("192.0.2.7"),
	}
}

// approve lets alice approve the handle in a browser, and returns the answer for the last page.
func (f *fixture) approve(handle string) authrpc.ProveFactorResponse {
	f.t.Helper()
	begun, err := f.Begin(f.t.Context(), proxyIdentity, openLink(handle, true))
	f.must(err)
	back := f.signIn(begun, "alice@example.com", "wonderland")
	identified := f.identifyAs(back)
	if identified.Headless == nil || identified.Headless.From != "203.0.113.9" ||
		identified.Headless.Host != "build-1" {
		f.t.Errorf("got %+v beside the second factor, want the requesting machine", identified.Headless)
	}
	done, err := f.prove(identified.attempt, f.code(identified.secret))
	f.must(err)
	return done
}

func (f *fixture) redeemHeadless(by authrpc.Caller, handle string, c client) (login.Assured, bool, error) {
	a, ok, err := f.RedeemHeadless(f.t.Context(), by, authrpc.RedeemHeadlessRequest{
		Handle: handle,
		Keys:   c.keys(),
	})
	if ok {
		err = a.Commit()(f.t.Context(), nil)
	}
	return a, ok, err
}

// The whole headless login: a machine without a browser gets a link, a user confirms the prompt in a browser
// elsewhere and passes provider and factor, and the machine redeems the login once.
func TestHeadlessLoginIsApprovedInAnotherBrowser(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	c := newClient(t)
	var asked authrpc.BeginHeadlessResponse
	f.noWrites(func() {
		asked = f.beginHeadless(c)
		seen, err := f.Begin(t.Context(), proxyIdentity, openLink(asked.Handle, false))
		f.must(err)
		h := seen.Headless
		if h == nil || h.From != "203.0.113.9" || h.Code != asked.Code || seen.Redirect+seen.Attempt != "" {
			t.Errorf("got %+v before the user confirmed, want the prompt and nothing else", seen)
		}
		if _, ok, err := f.redeemHeadless(headlessMachine, asked.Handle, c); ok || err != nil {
			t.Errorf("got %v, %v before anyone approved, want to wait", ok, err)
		}
	})
	if !regexp.MustCompile(`^[B-Z]{4}-[B-Z]{4}$`).MatchString(asked.Code) || asked.From != "203.0.113.9" ||
		asked.PollInterval <= 0 {
		t.Errorf("got %+v, want a code to compare and the machine's address", asked)
	}
	if done := f.approve(asked.Handle); done.Redirect != "" || done.Name != "alice@example.com" ||
		len(done.RecoveryCodes) == 0 {
		t.Errorf("got %+v, want no redirect to a loopback callback", done)
	}
	assured, ok, err := f.redeemHeadless(callerAt("203.0.113.9:40777"), asked.Handle, c)
	if err != nil || !ok || assured.Who().Name != "alice@example.com" || assured.Who().Factor != "totp" ||
		assured.MaxTTL() != login.HeadlessLife {
		t.Fatalf("got %+v, %v, %v, want alice for an hour at most", assured.Who(), ok, err)
	}
	if got := f.events(audit.LoginSucceeded); len(got) != 1 ||
		statetest.Body[audit.Login](t, got[0]).Host != "build-1" {
		t.Errorf("got %+v, want the name of the machine recorded", got)
	}
	want := []netip.Prefix{netip.MustParsePrefix("203.0.113.9/32")}
	if got := assured.Who().SourceAddresses; !slices.Equal(got, want) {
		t.Errorf("got it pinned to %v, want %v", got, want)
	}
	if _, ok, err := f.redeemHeadless(headlessMachine, asked.Handle, c); ok || err != nil {
		t.Errorf("got %v, %v for the second time, want it used up", ok, err)
	}
}

// If several users have the link, the machine is logged in as the first one who approves; the others get an
// error.
func TestHeadlessLoginIsApprovedOnce(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	c := newClient(t)
	asked := f.beginHeadless(c)
	begun, err := f.Begin(t.Context(), proxyIdentity, openLink(asked.Handle, true))
	f.must(err)
	bob := f.identifyAs(f.signIn(begun, "bob@example.com", "builder"))
	f.approve(asked.Handle)
	_, err = f.prove(bob.attempt, f.code(bob.secret))
	f.wantFault(err, fault.Expired, "approved already")
	if assured, ok, err := f.redeemHeadless(headlessMachine, asked.Handle, c); !ok || err != nil ||
		assured.Who().Name != "alice@example.com" {
		t.Errorf("got %q, %v, %v, want the first to have approved", assured.Who().Name, ok, err)
	}
}

// An IPv6 host may change its address within its /64, so the login is pinned to that network.
func TestHeadlessLoginIsPinnedToAnIPv6Network(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	c := newClient(t)
	asked, err := f.BeginHeadless(
		callerAt("[2001:db8:1:2:3::4]:40001"),
		authrpc.BeginHeadlessRequest{Challenge: c.begin().Challenge},
	)
	f.must(err)
	if asked.From != "2001:db8:1:2:3::4" {
		t.Errorf("got %q, want the whole address", asked.From)
	}
	begun, err := f.Begin(t.Context(), proxyIdentity, openLink(asked.Handle, true))
	f.must(err)
	back := f.signIn(begun, "alice@example.com", "wonderland")
	identified := f.identifyAs(back)
	_, err = f.prove(identified.attempt, f.code(identified.secret))
	f.must(err)
	otherHost := callerAt("[2001:db8:1:2:ffff::1]:9") // hosts change the rest of the address every day
	assured, ok, err := f.redeemHeadless(otherHost, asked.Handle, c)
	if err != nil || !ok || assured.Who().SourceAddresses[0] != netip.MustParsePrefix("2001:db8:1:2::/64") {
		t.Errorf("got %v, %v, %v, want it pinned to the /64", assured.Who().SourceAddresses, ok, err)
	}
}

// Only the client that requested a headless login may redeem it, from its own network and with its own keys.
// Refused tries write nothing, and do not spoil the login.
func TestInvalidHeadlessLoginsAreRefused(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	c, attacker := newClient(t), newClient(t)
	asked := f.beginHeadless(c)
	identified := f.identify(c).attempt
	f.noWrites(func() {
		for name, tt := range map[string]struct {
			by     authrpc.Caller
			handle string
			who    client
			kind   fault.Kind
		}{
			"from another address":       {callerAt("198.51.100.1:40001"), asked.Handle, c, fault.Denied},
			"from an unknown address":    {authrpc.Caller{}, asked.Handle, c, fault.Denied},
			"by another client":          {headlessMachine, asked.Handle, attacker, fault.Denied},
			"with an altered handle":     {headlessMachine, "x" + asked.Handle[1:], c, fault.Invalid},
			"without a handle":           {headlessMachine, "", c, fault.Invalid},
			"with an identified attempt": {headlessMachine, identified, c, fault.Invalid},
		} {
			_, ok, err := f.redeemHeadless(tt.by, tt.handle, tt.who)
			if ok || !fault.Is(err, tt.kind) || fault.Remedy(err) == "" {
				t.Errorf("%s: got %v, %v, want %s with a remedy", name, ok, err, tt.kind)
			}
		}
		for _, challenge := range []string{"", strings.Repeat("=", 43)} {
			malformed := authrpc.BeginHeadlessRequest{Challenge: challenge}
			if _, err := f.BeginHeadless(headlessMachine, malformed); !fault.Is(err, fault.Invalid) {
				t.Errorf("challenge %q: got %v, want invalid", challenge, err)
			}
		}
		named := authrpc.BeginHeadlessRequest{Challenge: c.begin().Challenge, Host: "your laptop"}
		if _, err := f.BeginHeadless(headlessMachine, named); !fault.Is(err, fault.Invalid) {
			t.Errorf("got %v for a name with a space, want invalid", err)
		}
		good := authrpc.BeginHeadlessRequest{Challenge: c.begin().Challenge}
		if _, err := f.BeginHeadless(authrpc.Caller{}, good); err == nil {
			t.Error("got a handle for a machine without an address")
		}
		both := openLink(asked.Handle, true)
		both.Callback = callback
		if _, err := f.Begin(t.Context(), proxyIdentity, both); !fault.Is(err, fault.Invalid) {
			t.Errorf("a handle and a callback: got %v, want invalid", err)
		}
	})
	if n := f.Refusals().Headless; n != 10 {
		t.Errorf("got %d refusals counted, want 10", n)
	}
	f.approve(asked.Handle)
	if _, ok, err := f.redeemHeadless(headlessMachine, asked.Handle, attacker); ok ||
		!fault.Is(err, fault.Denied) {
		t.Errorf("got %v, %v for other keys once it is approved, want denied", ok, err)
	}
	if _, ok, err := f.redeemHeadless(headlessMachine, asked.Handle, c); !ok || err != nil {
		t.Errorf("got %v, %v after others tried, want it still redeemable", ok, err)
	}
	f.advance(login.AttemptLife + time.Second)
	if _, _, err := f.redeemHeadless(headlessMachine, asked.Handle, c); !fault.Is(err, fault.Expired) {
		t.Errorf("got %v for an old handle, want expired", err)
	}
	_, err := f.Begin(t.Context(), proxyIdentity, openLink(asked.Handle, false))
	f.wantFault(err, fault.Expired, "start again")
}
