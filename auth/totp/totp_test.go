package totp_test

import (
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pquerna/otp"
	ptotp "github.com/pquerna/otp/totp"

	"github.com/threshold-access/threshold/auth/state"
	"github.com/threshold-access/threshold/auth/totp"
	"github.com/threshold-access/threshold/ca/keyring/keyringtest"
	"github.com/threshold-access/threshold/internal/audit"
	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/identity"
	"github.com/threshold-access/threshold/raftstore/raftstoretest"
)

var alice = identity.Identity{
	Kind:      identity.User,
	Cluster:   "example.com",
	Connector: "corp",
	Subject:   "sub-alice",
	Name:      "alice@example.com",
	LoginID:   "l1",
}

// fixture is a factor service over a real store, with a clock.
type fixture struct {
	*totp.Service
	t     *testing.T
	state *state.State
	vault *state.Vault
	now   time.Time
}

func newFixture(t *testing.T) *fixture {
	t.Helper()
	s := state.New(raftstoretest.Open(t))
	d := &fixture{
		t:     t,
		state: s,
		vault: state.NewVault(s, keyringtest.Seal(t)),
		now:   time.Unix(1_800_000_000, 0),
	}
	d.restart()
	return d
}

// restart makes a service that remembers only what is stored.
func (d *fixture) restart() {
	d.t.Helper()
	var err error
	if d.Service, err = totp.New(totp.Config{Store: d.vault, Issuer: "example.com", Now: func() time.Time { return d.now }}); err != nil {
		d.t.Fatal(err)
	}
}

func (d *fixture) code(secret string, at time.Time) string {
	d.t.Helper()
	c, err := ptotp.GenerateCode(secret, at)
	if err != nil {
		d.t.Fatal(err)
	}
	return c
}

// enrol gives alice a factor and lets the step of its first code pass.
func (d *fixture) enrol() (secret string, recovery []string) {
	d.t.Helper()
	offer, err := d.OfferEnrolment(d.t.Context(), alice)
	if err != nil || offer == nil {
		d.t.Fatalf("got %v and %v, want an offer", offer, err)
	}
	p, err := d.Verify(
		d.t.Context(),
		totp.Answer{Who: alice, Code: d.code(offer.Secret, d.now), Enrolment: offer},
	)
	if err != nil {
		d.t.Fatal(err)
	}
	d.now = d.now.Add(time.Minute)
	return offer.Secret, p.RecoveryCodes()
}

func (d *fixture) verify(code string) error {
	d.t.Helper()
	_, err := d.Verify(d.t.Context(), totp.Answer{Who: alice, Code: code, From: "192.0.2.1:4711"})
	return err
}

func (d *fixture) wantFault(err error, kind fault.Kind, says string) {
	d.t.Helper()
	if !fault.Is(err, kind) || !strings.Contains(err.Error()+" "+fault.Remedy(err), says) ||
		fault.Remedy(err) == "" {
		d.t.Errorf(
			"got %v (kind %s, remedy %q), want %s with %q",
			err,
			fault.KindOf(err),
			fault.Remedy(err),
			kind,
			says,
		)
	}
}

// events returns the codes of the stored events.
func (d *fixture) events() []audit.Code {
	d.t.Helper()
	all, err := d.state.ReadEvents(d.t.Context(), 1, 1000)
	if err != nil {
		d.t.Fatal(err)
	}
	var out []audit.Code
	for _, e := range all {
		out = append(out, e.Event.Code)
	}
	return out
}

func count(codes []audit.Code, want audit.Code) (n int) {
	for _, c := range codes {
		if c == want {
			n++
		}
	}
	return n
}

// wrongCode gives a code that is none of those around now.
func (d *fixture) wrongCode(secret string) string {
	for _, c := range []string{"000000", "111111", "222222", "333333"} {
		near := false
		for _, by := range []time.Duration{-30, 0, 30} {
			near = near || d.code(secret, d.now.Add(by*time.Second)) == c
		}
		if !near {
			return c
		}
	}
	d.t.Fatal("no wrong code found")
	return ""
}

func TestEnrolmentIsStoredByItsFirstCorrectCode(t *testing.T) {
	d := newFixture(t)
	offer, err := d.OfferEnrolment(t.Context(), alice)
	if err != nil {
		t.Fatal(err)
	}
	key, err := otp.NewKeyFromURL(offer.URI)
	if err != nil || key.Secret() != offer.Secret || key.Issuer() != "example.com" ||
		key.AccountName() != alice.Name {
		t.Errorf("got %s and %v, want secret, cluster and name in it", offer.URI, err)
	}
	_, err = d.Verify(t.Context(), totp.Answer{Who: alice, Code: d.wrongCode(offer.Secret), Enrolment: offer})
	d.wantFault(err, fault.Denied, "wrong")
	if has, _ := d.state.HasFactor(t.Context(), alice.UserKey()); has {
		t.Error("got a factor after a wrong code, want none")
	}
	p, err := d.Verify(
		t.Context(),
		totp.Answer{Who: alice, Code: d.code(offer.Secret, d.now), Enrolment: offer},
	)
	if err != nil || p.Method() != totp.MethodTOTP || p.Who() != alice.UserKey() ||
		len(p.RecoveryCodes()) != 10 {
		t.Fatalf("got %+v and %v, want alice enrolled with ten recovery codes", p, err)
	}
	d.wantFault(d.verify(d.code(offer.Secret, d.now)), fault.Denied, "used already")
	if again, err := d.OfferEnrolment(t.Context(), alice); again != nil || err != nil {
		t.Errorf("got offer %v and %v, want none for one who has a factor", again, err)
	}
	if got := d.events(); count(got, audit.FactorEnrolled) != 1 {
		t.Errorf("got events %v, want one enrolment", got)
	}
}

func TestSecondEnrolmentDoesNotReplaceTheFactor(t *testing.T) {
	d := newFixture(t)
	late, err := d.OfferEnrolment(t.Context(), alice)
	if err != nil {
		t.Fatal(err)
	}
	secret, _ := d.enrol()
	_, err = d.Verify(t.Context(), totp.Answer{Who: alice, Code: d.code(late.Secret, d.now), Enrolment: late})
	d.wantFault(err, fault.Expired, "already enrolled")
	if err := d.verify(d.code(secret, d.now)); err != nil {
		t.Errorf("got %v for the first factor, want it to work still", err)
	}
}

func TestCodesWorkOnceWithinOneStepOfDrift(t *testing.T) {
	d := newFixture(t)
	secret, _ := d.enrol()
	for _, tt := range []struct {
		by   time.Duration
		kind fault.Kind
	}{{-60, fault.Denied}, {60, fault.Denied}, {-30, ""}, {-30, fault.Denied}, {0, ""}, {0, fault.Denied}, {-30, fault.Denied}, {30, ""}, {0, fault.Denied}} {
		if err := d.verify(d.code(secret, d.now.Add(tt.by*time.Second))); fault.KindOf(err) != tt.kind {
			t.Errorf("step %+d: got %v, want kind %q", tt.by/30, err, tt.kind)
		}
	}
}

func TestSpacesAndDashesDoNotMatter(t *testing.T) {
	d := newFixture(t)
	secret, recovery := d.enrol()
	c := d.code(secret, d.now)
	if err := d.verify(" " + c[:3] + "\u00a0" + c[3:] + "\n"); err != nil {
		t.Errorf("got %v, want the code accepted", err)
	}
	d.wantFault(d.verify(c[:2]+"-"+c[2:]), fault.Denied, "used already")
	if err := d.verify(strings.ToLower(strings.ReplaceAll(recovery[0], "-", " "))); err != nil {
		t.Errorf("got %v for a recovery code, want it accepted", err)
	}
}

func TestMalformedCodesAreNotCounted(t *testing.T) {
	d := newFixture(t)
	secret, _ := d.enrol()
	for range 3 {
		for _, c := range []string{"", "12345", "1234567", "abcdef", "１２３４５６", strings.Repeat("1 ", 6000), "ABCD-EFGH", "000000\x00"} {
			d.wantFault(d.verify(c), fault.Invalid, "not a code")
		}
	}
	if err := d.verify(d.code(secret, d.now)); err != nil {
		t.Errorf("got %v, want no lock-out", err)
	}
}

func TestWrongCodesLockOutForDoublingTimes(t *testing.T) {
	d := newFixture(t)
	secret, recovery := d.enrol()
	for i, c := range []string{"", " ", "-", "  "} { // the same guess in other clothes counts each time
		w := d.wrongCode(secret)
		d.wantFault(d.verify(w[:3]+c+w[3:]), fault.Denied, "wrong")
		if i == 1 {
			d.restart()
		}
	}
	for _, want := range []struct {
		says string
		wait time.Duration
	}{{"30s", 30}, {"1m", 60}, {"2m", 120}, {"4m", 240}, {"8m", 480}, {"16m", 960}, {"32m", 1920}, {"1h", 3600}, {"1h", 3600}} {
		d.wantFault(d.verify(d.wrongCode(secret)), fault.Exhausted, "try again in "+want.says)
		d.restart()
		d.wantFault(d.verify(d.code(secret, d.now)), fault.Exhausted, "try again in")
		d.wantFault(d.verify(recovery[0]), fault.Exhausted, "try again in")
		d.now = d.now.Add(want.wait*time.Second - time.Second)
		d.wantFault(d.verify(d.code(secret, d.now)), fault.Exhausted, "try again in 1s")
		d.now = d.now.Add(time.Second)
	}
	if err := d.verify(d.code(secret, d.now)); err != nil {
		t.Fatalf("got %v after the pause, want the right code accepted", err)
	}
	d.wantFault(d.verify(d.wrongCode(secret)), fault.Denied, "wrong") // the count began anew
	if got := d.events(); count(got, audit.FactorLocked) != 9 || count(got, audit.LoginRefused) != 14 {
		t.Errorf(
			"got %d locks and %d refusals, want 9 and 14: nothing is written while locked",
			count(got, audit.FactorLocked),
			count(got, audit.LoginRefused),
		)
	}
}

func TestLockoutIsIndependentOfTheUserName(t *testing.T) {
	d := newFixture(t)
	secret, _ := d.enrol()
	for i := range 5 {
		who := alice
		who.Name = strings.ToUpper(alice.Name[:i]) + alice.Name[i:]
		_, _ = d.Verify(t.Context(), totp.Answer{Who: who, Code: d.wrongCode(secret)})
	}
	d.wantFault(d.verify(d.code(secret, d.now)), fault.Exhausted, "try again in 30s")
}

func TestAddressIsLockedOutAcrossUsers(t *testing.T) {
	d := newFixture(t)
	try := func(i int, from string) error {
		who := alice
		who.Subject = strings.Repeat("x", i+1)
		_, err := d.Verify(t.Context(), totp.Answer{Who: who, Code: "123456", From: from})
		return err
	}
	for i := range 20 {
		d.wantFault(try(i, "[2001:db8::1]:"+"99"), fault.Denied, "wrong")
	}
	d.wantFault(try(30, "2001:db8::2"), fault.Exhausted, "from this address")
	d.wantFault(try(31, "2001:db8:1::2"), fault.Denied, "wrong")
	d.wantFault(try(32, "no address"), fault.Denied, "wrong")
	d.now = d.now.Add(30 * time.Second)
	d.wantFault(try(33, "2001:db8::2"), fault.Denied, "wrong")
}

func TestUserWithoutFactorGetsTheWrongCodeAnswer(t *testing.T) {
	d := newFixture(t)
	secret, _ := d.enrol()
	known := d.verify(d.wrongCode(secret))
	bob := alice
	bob.Subject = "sub-bob"
	for _, c := range []string{"123456", d.code(strings.Repeat("A", 32), d.now)} { // also with the code of the secret that stands in
		_, unknown := d.Verify(t.Context(), totp.Answer{Who: bob, Code: c, From: "192.0.2.1:4711"})
		if unknown == nil || known.Error() != unknown.Error() ||
			fault.Remedy(known) != fault.Remedy(unknown) {
			t.Errorf("got %v and %v, want the same answer", known, unknown)
		}
	}
}

func TestRecoveryCodesWorkOnceAndEndAtReEnrolment(t *testing.T) {
	d := newFixture(t)
	_, old := d.enrol()
	p, err := d.Verify(t.Context(), totp.Answer{Who: alice, Code: old[3]})
	if err != nil || p.Method() != totp.MethodRecovery || len(p.RecoveryCodes()) != 0 {
		t.Fatalf("got %+v and %v, want it accepted", p, err)
	}
	d.wantFault(d.verify(old[3]), fault.Denied, "wrong")
	if err := d.verify(old[4]); err != nil {
		t.Errorf("got %v for another one, want it accepted", err)
	}
	d.removeUser(alice)
	_, fresh := d.enrol()
	d.wantFault(d.verify(old[0]), fault.Denied, "wrong")
	if err := d.verify(fresh[0]); err != nil {
		t.Errorf("got %v for a fresh one, want it accepted", err)
	}
	if got := d.events(); count(got, audit.RecoveryUsed) != 3 {
		t.Errorf("got events %v, want three recoveries", got)
	}
}

// removeUser removes the person, as an administrator does for someone who lost phone and recovery codes.
func (d *fixture) removeUser(who identity.Identity) {
	d.t.Helper()
	u := state.User{Connector: who.Connector, Subject: who.Subject, Name: who.Name}
	if err := d.state.Users.PutUser(d.t.Context(), state.Stored[state.User]{}, u); err != nil {
		d.t.Fatal(err)
	}
	rec, err := d.state.User(d.t.Context(), who.UserKey())
	if err == nil {
		err = d.state.Users.RemoveUser(d.t.Context(), rec)
	}
	if err != nil {
		d.t.Fatal(err)
	}
}

func TestRecoveryCodesAreBoundToTheirUser(t *testing.T) {
	d := newFixture(t)
	_, recovery := d.enrol()
	bob := alice
	bob.Subject = "sub-bob"
	_, err := d.Verify(t.Context(), totp.Answer{Who: bob, Code: recovery[0]})
	d.wantFault(err, fault.Denied, "wrong")
}

// proveConcurrently shows one code twenty times at once, on two replicas, and returns how often it was
// accepted.
func (d *fixture) proveConcurrently(code string) int {
	one := d.Service
	d.restart()
	replicas := []*totp.Service{one, d.Service}
	var accepted atomic.Int32
	var all sync.WaitGroup
	for i := range 20 {
		all.Go(func() {
			switch _, err := replicas[i%2].Verify(d.t.Context(), totp.Answer{Who: alice, Code: code}); {
			case err == nil:
				accepted.Add(1)
			case !fault.Is(err, fault.Denied) && !fault.Is(err, fault.Exhausted):
				d.t.Errorf("got %v, want denied", err)
			}
		})
	}
	all.Wait()
	return int(accepted.Load())
}

func TestConcurrentUseOfOneCodeIsAcceptedOnce(t *testing.T) {
	d := newFixture(t)
	secret, recovery := d.enrol()
	for _, code := range []string{d.code(secret, d.now), recovery[0]} {
		if got := d.proveConcurrently(code); got != 1 {
			t.Errorf("got %d acceptances, want 1", got)
		}
		d.now = d.now.Add(2 * time.Hour)
	}
}
