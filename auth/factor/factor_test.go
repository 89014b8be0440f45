package factor_test

import (
	"encoding/json"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pquerna/otp"
	ptotp "github.com/pquerna/otp/totp"
	"go.uber.org/goleak"

	"github.com/threshold-access/threshold/auth/factor"
	"github.com/threshold-access/threshold/auth/state"
	"github.com/threshold-access/threshold/auth/state/statetest"
	"github.com/threshold-access/threshold/auth/totp"
	"github.com/threshold-access/threshold/ca/keyring/keyringtest"
	"github.com/threshold-access/threshold/internal/audit"
	"github.com/threshold-access/threshold/internal/authrpc"
	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/identity"
	"github.com/threshold-access/threshold/raftstore/raftstoretest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var alice = identity.Identity{
	Kind:      identity.User,
	Profile:   identity.UserProfile,
	Cluster:   "example.com",
	Connector: "corp",
	Subject:   "sub-alice",
	Name:      "alice@example.com",
	LoginID:   "l1",
}

// fixture is a service over a real store, with a fake clock.
type fixture struct {
	*factor.Service
	t     *testing.T
	state *state.State
	vault *state.Vault
	now   time.Time
}

func newFixture(t *testing.T) *fixture {
	t.Helper()
	s := state.New(raftstoretest.Open(t))
	f := &fixture{
		t:     t,
		state: s,
		vault: state.NewVault(s, keyringtest.Secrets(t)),
		now:   time.Unix(1_800_000_000, 0),
	}
	f.restart()
	return f
}

// restart replaces the service by a new one, which knows only what is stored.
func (f *fixture) restart() {
	f.t.Helper()
	var err error
	f.Service, err = factor.New(factor.Config{
		Store:   f.vault.Factors,
		Methods: []factor.Method{totp.Method{Issuer: "example.com"}},
		Now:     func() time.Time { return f.now },
	})
	if err != nil {
		f.t.Fatal(err)
	}
}

func (f *fixture) code(secret string, at time.Time) string {
	f.t.Helper()
	c, err := ptotp.GenerateCode(secret, at)
	if err != nil {
		f.t.Fatal(err)
	}
	return c
}

// offer returns the challenges of alice, who has no factor, and the enrolment in the first of them.
func (f *fixture) offer() ([]factor.Challenge, authrpc.TOTPEnrolment) {
	f.t.Helper()
	offered, err := f.Challenges(f.t.Context(), alice)
	if err != nil || len(offered) != 1 || !offered[0].Enrol {
		f.t.Fatalf("got %v and %v, want an enrolment", offered, err)
	}
	var enrolment authrpc.TOTPEnrolment
	if err := json.Unmarshal(offered[0].Body, &enrolment); err != nil {
		f.t.Fatal(err)
	}
	return offered, enrolment
}

// answer returns alice's answer of a code to challenges.
func answer(challenges []factor.Challenge, code string) factor.Answer {
	body, err := json.Marshal(code)
	if err != nil {
		panic(err) // a string always has a JSON form
	}
	return factor.Answer{
		Who:        alice,
		Challenges: challenges,
		Response:   factor.Response{Kind: totp.Kind, Body: body},
		From:       netip.MustParseAddr("192.0.2.1"),
	}
}

// typed returns alice's answer of a code to the challenge of a user who has an app.
func typed(code string) factor.Answer { return answer([]factor.Challenge{{Kind: totp.Kind}}, code) }

// enrol enrols a factor for alice, and advances the clock beyond the step of its first code.
func (f *fixture) enrol() (secret string, recovery []string) {
	f.t.Helper()
	offered, enrolment := f.offer()
	proof, err := f.Verify(f.t.Context(), answer(offered, f.code(enrolment.Secret, f.now)))
	if err != nil {
		f.t.Fatal(err)
	}
	f.now = f.now.Add(time.Minute)
	return enrolment.Secret, proof.RecoveryCodes()
}

func (f *fixture) verify(code string) error {
	f.t.Helper()
	_, err := f.Verify(f.t.Context(), typed(code))
	return err
}

// wantFault fails unless err is of the kind, has a remedy, and contains says in its message or remedy.
func (f *fixture) wantFault(err error, kind fault.Kind, says string) {
	f.t.Helper()
	if !fault.Is(err, kind) || !strings.Contains(err.Error()+" "+fault.Remedy(err), says) ||
		fault.Remedy(err) == "" {
		f.t.Errorf("got %v (kind %s, remedy %q), want %s with %q",
			err, fault.KindOf(err), fault.Remedy(err), kind, says)
	}
}

// events returns the codes of the stored events.
func (f *fixture) events() []audit.Code {
	f.t.Helper()
	var out []audit.Code
	for _, e := range statetest.Events(f.t, f.state) {
		out = append(out, e.Code)
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

// wrongCode returns a code that no step around now has.
func (f *fixture) wrongCode(secret string) string {
	for _, c := range []string{"000000", "111111", "222222", "333333"} {
		near := false
		for _, by := range []time.Duration{-30, 0, 30} {
			near = near || f.code(secret, f.now.Add(by*time.Second)) == c
		}
		if !near {
			return c
		}
	}
	f.t.Fatal("no wrong code found")
	return ""
}

// An enrolment is stored neither by the offer nor by a wrong code, but by its first correct code. That code
// is used up with it.
func TestEnrolmentIsStoredByItsFirstCorrectCode(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	offered, offer := f.offer()
	key, err := otp.NewKeyFromURL(offer.URI)
	if err != nil || key.Secret() != offer.Secret || key.Issuer() != "example.com" ||
		key.AccountName() != alice.Name {
		t.Errorf("got %s and %v, want secret, cluster and name in it", offer.URI, err)
	}
	_, err = f.Verify(t.Context(), answer(offered, f.wrongCode(offer.Secret)))
	f.wantFault(err, fault.Denied, "wrong")
	if has, _ := f.state.HasFactor(t.Context(), alice.UserKey()); has {
		t.Error("got a factor after a wrong code, want none")
	}
	proof, err := f.Verify(t.Context(), answer(offered, f.code(offer.Secret, f.now)))
	if err != nil || proof.Method() != totp.Kind || proof.Who() != alice.UserKey() ||
		len(proof.RecoveryCodes()) != 10 {
		t.Fatalf("got %+v and %v, want alice enrolled with ten recovery codes", proof, err)
	}
	f.wantFault(f.verify(f.code(offer.Secret, f.now)), fault.Denied, "used already")
	if again, err := f.Challenges(t.Context(), alice); err != nil || len(again) != 1 || again[0].Enrol {
		t.Errorf("got %v and %v, want no enrolment for a user who has a factor", again, err)
	}
	if got := f.events(); count(got, audit.FactorEnrolled) != 1 {
		t.Errorf("got events %v, want one enrolment", got)
	}
}

func TestSecondEnrolmentDoesNotReplaceTheFactor(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	offered, late := f.offer()
	secret, _ := f.enrol()
	_, err := f.Verify(t.Context(), answer(offered, f.code(late.Secret, f.now)))
	f.wantFault(err, fault.Expired, "already enrolled")
	if err := f.verify(f.code(secret, f.now)); err != nil {
		t.Errorf("got %v for the first factor, want it to work still", err)
	}
}

func TestCodesWorkOnceWithinOneStepOfDrift(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	secret, _ := f.enrol()
	for _, tt := range []struct {
		by   time.Duration
		kind fault.Kind
	}{
		{-60, fault.Denied}, {60, fault.Denied}, // too old, too new
		{-30, ""}, {-30, fault.Denied}, // accepted once
		{0, ""}, {0, fault.Denied}, {-30, fault.Denied},
		{30, ""}, {0, fault.Denied}, // a later step voids the earlier ones
	} {
		if err := f.verify(f.code(secret, f.now.Add(tt.by*time.Second))); fault.KindOf(err) != tt.kind {
			t.Errorf("step %+d: got %v, want kind %q", tt.by/30, err, tt.kind)
		}
	}
}

func TestSpacesAndDashesDoNotMatter(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	secret, recovery := f.enrol()
	c := f.code(secret, f.now)
	if err := f.verify(" " + c[:3] + "\u00a0" + c[3:] + "\n"); err != nil {
		t.Errorf("got %v, want the code accepted", err)
	}
	f.wantFault(f.verify(c[:2]+"-"+c[2:]), fault.Denied, "used already")
	if err := f.verify(strings.ToLower(strings.ReplaceAll(recovery[0], "-", " "))); err != nil {
		t.Errorf("got %v for a recovery code, want it accepted", err)
	}
}

func TestMalformedCodesAreNotCounted(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	secret, _ := f.enrol()
	for range 3 {
		for _, c := range []string{
			"", "12345", "1234567", "abcdef", "１２３４５６", "ABCD-EFGH", "000000\x00", strings.Repeat("1 ", 6000),
		} {
			f.wantFault(f.verify(c), fault.Invalid, "not a code")
		}
	}
	if err := f.verify(f.code(secret, f.now)); err != nil {
		t.Errorf("got %v, want no lockout", err)
	}
}

// Each wrong code from the fifth on locks the user out for twice as long, up to an hour, also across a
// restart. A correct code does not help during the lockout, and resets the count after it.
func TestWrongCodesLockOutForDoublingTimes(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	secret, recovery := f.enrol()
	for i, c := range []string{"", " ", "-", "  "} { // each spelling of a wrong code counts
		w := f.wrongCode(secret)
		f.wantFault(f.verify(w[:3]+c+w[3:]), fault.Denied, "wrong")
		if i == 1 {
			f.restart()
		}
	}
	for _, want := range []struct {
		says string
		wait time.Duration
	}{
		{"30s", 30}, {"1m", 60}, {"2m", 120}, {"4m", 240}, {"8m", 480}, {"16m", 960}, {"32m", 1920},
		{"1h", 3600}, {"1h", 3600},
	} {
		f.wantFault(f.verify(f.wrongCode(secret)), fault.Exhausted, "try again in "+want.says)
		f.restart()
		f.wantFault(f.verify(f.code(secret, f.now)), fault.Exhausted, "try again in")
		f.wantFault(f.verify(recovery[0]), fault.Exhausted, "try again in")
		f.now = f.now.Add(want.wait*time.Second - time.Second)
		f.wantFault(f.verify(f.code(secret, f.now)), fault.Exhausted, "try again in 1s")
		f.now = f.now.Add(time.Second)
	}
	if err := f.verify(f.code(secret, f.now)); err != nil {
		t.Fatalf("got %v after the lockout, want the right code accepted", err)
	}
	f.wantFault(f.verify(f.wrongCode(secret)), fault.Denied, "wrong") // counting begins again
	if got := f.events(); count(got, audit.FactorLocked) != 9 || count(got, audit.LoginRefused) != 14 {
		t.Errorf("got %d lockouts and %d refusals, want 9 and 14: nothing is written during a lockout",
			count(got, audit.FactorLocked), count(got, audit.LoginRefused))
	}
}

func TestLockoutIsIndependentOfTheUserName(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	secret, _ := f.enrol()
	for i := range 5 {
		a := typed(f.wrongCode(secret))
		a.Who.Name = strings.ToUpper(alice.Name[:i]) + alice.Name[i:]
		_, _ = f.Verify(t.Context(), a)
	}
	f.wantFault(f.verify(f.code(secret, f.now)), fault.Exhausted, "try again in 30s")
}

func TestAddressIsLockedOutAcrossUsers(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	try := func(i int, from string) error {
		a := typed("123456")
		a.Who.Subject = strings.Repeat("x", i+1)
		a.From, _ = netip.ParseAddr(from) // "": the proxy does not know it
		_, err := f.Verify(t.Context(), a)
		return err
	}
	for i := range 20 {
		f.wantFault(try(i, "2001:db8::1"), fault.Denied, "wrong")
	}
	f.wantFault(try(30, "2001:db8::2"), fault.Exhausted, "from this address")
	f.wantFault(try(31, "2001:db8:1::2"), fault.Denied, "wrong")
	f.wantFault(try(32, ""), fault.Denied, "wrong")
	f.now = f.now.Add(30 * time.Second)
	f.wantFault(try(33, "2001:db8::2"), fault.Denied, "wrong")
}

func TestUserWithoutFactorGetsTheWrongCodeAnswer(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	secret, _ := f.enrol()
	known := f.verify(f.wrongCode(secret))
	ofDummy := f.code(strings.Repeat("A", 32), f.now) // the code of the dummy secret
	for _, c := range []string{"123456", ofDummy} {
		a := typed(c)
		a.Who.Subject = "sub-bob"
		_, unknown := f.Verify(t.Context(), a)
		if unknown == nil || known.Error() != unknown.Error() ||
			fault.Remedy(known) != fault.Remedy(unknown) {
			t.Errorf("got %v and %v, want the same answer", known, unknown)
		}
	}
}

// Each recovery code works once. A new enrolment replaces them all.
func TestRecoveryCodesWorkOnceAndEndAtReEnrolment(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	_, old := f.enrol()
	proof, err := f.Verify(t.Context(), typed(old[3]))
	if err != nil || proof.Method() != factor.Recovery || len(proof.RecoveryCodes()) != 0 {
		t.Fatalf("got %+v and %v, want it accepted", proof, err)
	}
	f.wantFault(f.verify(old[3]), fault.Denied, "wrong")
	if err := f.verify(old[4]); err != nil {
		t.Errorf("got %v for another one, want it accepted", err)
	}
	f.removeUser(alice)
	_, fresh := f.enrol()
	f.wantFault(f.verify(old[0]), fault.Denied, "wrong")
	if err := f.verify(fresh[0]); err != nil {
		t.Errorf("got %v for a fresh one, want it accepted", err)
	}
	if got := f.events(); count(got, audit.RecoveryUsed) != 3 {
		t.Errorf("got events %v, want three recoveries", got)
	}
}

// removeUser removes a user, as an administrator does for someone who lost phone and recovery codes.
func (f *fixture) removeUser(who identity.Identity) {
	f.t.Helper()
	user := state.User{Connector: who.Connector, Subject: who.Subject, Name: who.Name}
	by := state.By{Time: time.Now()}
	if err := f.state.Users.PutUser(f.t.Context(), state.Stored[state.User]{}, user, by); err != nil {
		f.t.Fatal(err)
	}
	rec, err := f.state.User(f.t.Context(), who.UserKey())
	if err == nil {
		err = f.state.Users.RemoveUser(f.t.Context(), rec, state.By{Time: time.Now()})
	}
	if err != nil {
		f.t.Fatal(err)
	}
}

func TestRecoveryCodesAreBoundToTheirUser(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	_, recovery := f.enrol()
	a := typed(recovery[0])
	a.Who.Subject = "sub-bob"
	_, err := f.Verify(t.Context(), a)
	f.wantFault(err, fault.Denied, "wrong")
}

// proveConcurrently enters one code twenty times at once, on two replicas, and returns how often it was
// accepted.
func (f *fixture) proveConcurrently(code string) int {
	one := f.Service
	f.restart()
	replicas := []*factor.Service{one, f.Service}
	var accepted atomic.Int32
	var all sync.WaitGroup
	for i := range 20 {
		all.Go(func() {
			switch _, err := replicas[i%2].Verify(f.t.Context(), typed(code)); {
			case err == nil:
				accepted.Add(1)
			case !fault.Is(err, fault.Denied) && !fault.Is(err, fault.Exhausted):
				f.t.Errorf("got %v, want denied", err)
			}
		})
	}
	all.Wait()
	return int(accepted.Load())
}

func TestConcurrentUseOfOneCodeIsAcceptedOnce(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	secret, recovery := f.enrol()
	for _, code := range []string{f.code(secret, f.now), recovery[0]} {
		if got := f.proveConcurrently(code); got != 1 {
			t.Errorf("got %d acceptances, want 1", got)
		}
		f.now = f.now.Add(2 * time.Hour)
	}
}
