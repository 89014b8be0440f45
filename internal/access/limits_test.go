package access_test

import (
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/threshold-access/threshold/internal/access"
)

// without is what holds where no role sets an option.
func without() access.Limits {
	return access.LimitsOf(access.Policy{}, user())
}

func limit[T any](value T, rule string) access.Limit[T] {
	return access.Limit[T]{Value: value, Rule: rule}
}

// Of each limit the strictest counts, and is returned with the role that sets it.
func TestTheStrictestLimitOfAUsersRolesWins(t *testing.T) {
	t.Parallel()
	options := func(o access.Options) access.Role { return access.Role{Options: o} }
	d := func(d time.Duration) access.Option[access.Duration] { return access.Set(access.Duration(d)) }
	p := access.Policy{Roles: map[string]access.Role{
		"free": {},
		"short": options(access.Options{
			IdleTimeout: d(time.Minute), MaxSession: d(8 * time.Hour), MaxSessions: access.Set(5),
		}),
		"few": options(access.Options{
			IdleTimeout: d(time.Hour), MaxSessions: access.Set(1), EndWithCertificate: access.Set(true),
		}),
		"day":    options(access.Options{MaxSession: d(time.Hour), EndWithCertificate: access.Set(true)}),
		"loose":  options(access.Options{EndWithCertificate: access.Set(false)}),
		"lax":    options(access.Options{EndWithCertificate: access.Set(false)}),
		"broken": options(access.Options{IdleTimeout: d(-1), MaxSession: d(0), MaxSessions: access.Set(-1)}),
	}}
	for _, tt := range []struct {
		name  string
		roles []string
		want  func(*access.Limits)
	}{
		{"no role", nil, func(*access.Limits) {}},
		{"a role that sets nothing", []string{"free"}, func(*access.Limits) {}},
		{"a role that was removed", []string{"gone"}, func(*access.Limits) {}},
		{"one role", []string{"short"}, func(l *access.Limits) {
			l.IdleTimeout = limit(time.Minute, "role short, idle_timeout")
			l.MaxSession = limit(8*time.Hour, "role short, max_session")
			l.MaxSessions = limit(5, "role short, max_sessions")
		}},
		{"several", []string{"free", "short", "few", "day", "loose"}, func(l *access.Limits) {
			l.IdleTimeout = limit(time.Minute, "role short, idle_timeout")
			l.MaxSession = limit(time.Hour, "role day, max_session")
			l.MaxSessions = limit(1, "role few, max_sessions")
			l.EndWithCertificate = limit(true, "role day, end_with_certificate")
		}},
		{"one that says no, and one that says nothing", []string{"free", "loose"}, func(*access.Limits) {}},
		{"one that says no, and one that was removed", []string{"gone", "loose"}, func(l *access.Limits) {
			l.EndWithCertificate = limit(false, "role loose, end_with_certificate")
		}},
		{"all say no", []string{"loose", "lax"}, func(l *access.Limits) {
			l.EndWithCertificate = limit(false, "role lax, end_with_certificate")
		}},
		{"values that Check would refuse", []string{"few", "broken"}, func(l *access.Limits) {
			l.IdleTimeout = limit(time.Duration(-1), "role broken, idle_timeout")
			l.MaxSession = limit(time.Duration(0), "role broken, max_session")
			l.MaxSessions = limit(-1, "role broken, max_sessions")
			l.EndWithCertificate = limit(true, "role few, end_with_certificate")
		}},
	} {
		want := without()
		tt.want(&want)
		if got := access.LimitsOf(p, user(tt.roles...)); got != want {
			t.Errorf("%s: got %+v, want %+v", tt.name, got, want)
		}
	}
}

// Without a role that sets it, an option has its default, and says so.
func TestDefaultsHoldWhereNoRoleSetsAnOption(t *testing.T) {
	t.Parallel()
	want := access.Limits{
		CertTTL:            limit(access.DefaultCertTTL, "the default of cert_ttl"),
		EndWithCertificate: limit(true, "the default of end_with_certificate"),
	}
	if got := without(); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

// randomRoles are roles that set some options, among them some that are equal.
func randomRoles(r *rand.Rand) access.Policy {
	duration := func() access.Option[access.Duration] {
		if r.IntN(2) == 0 {
			return access.Option[access.Duration]{}
		}
		return access.Set(access.Duration(r.IntN(4)-1) * access.Duration(time.Hour))
	}
	p := access.Policy{Roles: map[string]access.Role{}}
	for _, name := range []string{"a", "b", "c", "d"} {
		role := access.Role{Name: name, Options: access.Options{
			CertTTL: duration(), IdleTimeout: duration(), MaxSession: duration(),
		}}
		if r.IntN(2) == 0 {
			role.Options.MaxSessions = access.Set(r.IntN(3))
		}
		if r.IntN(2) == 0 {
			role.Options.EndWithCertificate = access.Set(r.IntN(2) == 0)
		}
		p.Roles[name] = role
	}
	return p
}

// The rule of the manual. The order of the roles does not matter, nor whether one is named twice. A role that
// sets nothing has no influence. A role more never loosens an option that another role sets, and the value
// that holds is always one that a role sets, or the default if none does.
func TestRolesAreMergedByOneRule(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(1, 2))
	for range 2000 {
		p := randomRoles(r)
		no := access.Set(false) // of end_with_certificate a role that says nothing says yes
		p.Roles["silent"] = access.Role{Name: "silent", Options: access.Options{EndWithCertificate: no}}
		roles := []string{"a", "b", "c", "d"}[:1+r.IntN(4)]
		roles = slices.Clone(roles)
		want := access.LimitsOf(p, user(roles...))
		shuffled := append(slices.Clone(roles), roles[r.IntN(len(roles))], "silent")
		r.Shuffle(len(shuffled), func(i, j int) { shuffled[i], shuffled[j] = shuffled[j], shuffled[i] })
		if got := access.LimitsOf(p, user(shuffled...)); got != want {
			t.Fatalf("%q: got %+v, want %+v as for %q", shuffled, got, want, roles)
		}
		fewer := access.LimitsOf(p, user(roles[1:]...))
		checkNotLoosened(t, fewer, want)
		var set []access.Limits
		for _, name := range roles {
			set = append(set, access.LimitsOf(p, user(name)))
		}
		checkIsOneOf(t, want, set)
	}
}

// checkNotLoosened reports an option that a role set before, and that is less strict now.
func checkNotLoosened(t *testing.T, before, now access.Limits) {
	t.Helper()
	isSet := func(rule string) bool { return rule != "" && !isDefault(rule) }
	if isSet(before.CertTTL.Rule) && now.CertTTL.Value > before.CertTTL.Value ||
		isSet(before.IdleTimeout.Rule) && now.IdleTimeout.Value > before.IdleTimeout.Value ||
		isSet(before.MaxSession.Rule) && now.MaxSession.Value > before.MaxSession.Value ||
		isSet(before.MaxSessions.Rule) && now.MaxSessions.Value > before.MaxSessions.Value ||
		isSet(before.EndWithCertificate.Rule) && before.EndWithCertificate.Value &&
			!now.EndWithCertificate.Value {
		t.Errorf("got %+v with one role more, want it no looser than %+v", now, before)
	}
}

// checkIsOneOf reports an option that is none of those that the single roles have.
func checkIsOneOf(t *testing.T, merged access.Limits, singles []access.Limits) {
	t.Helper()
	for i := range reflect.TypeFor[access.Limits]().NumField() {
		got := reflect.ValueOf(merged).Field(i).Interface()
		if !slices.ContainsFunc(singles, func(l access.Limits) bool {
			return reflect.ValueOf(l).Field(i).Interface() == got
		}) {
			t.Errorf("got %+v, want it from one of %+v", got, singles)
		}
	}
}

func isDefault(rule string) bool { return len(rule) > 4 && rule[:4] == "the " }

// Every option is merged: a new field of Options without one in Limits would not count. RulesAge is no limit
// of a user: it counts for what its own role allows.
func TestEveryOptionHasALimit(t *testing.T) {
	t.Parallel()
	full := access.Options{
		CertTTL:            access.Set(access.Duration(time.Minute)),
		IdleTimeout:        access.Set(access.Duration(time.Second)),
		MaxSession:         access.Set(access.Duration(time.Second)),
		MaxSessions:        access.Set(1),
		EndWithCertificate: access.Set(true),
		RulesAge:           access.Set(access.Duration(time.Minute)),
	}
	got := reflect.ValueOf(access.LimitsOf(policy(access.Role{Options: full}), user("r")))
	options := reflect.ValueOf(full)
	for i := range options.NumField() {
		name := options.Type().Field(i).Name
		if options.Field(i).IsZero() {
			t.Errorf("the test does not set %s", name)
		}
		if name == "RulesAge" {
			continue
		}
		if l := got.FieldByName(name); !l.IsValid() || isDefault(l.FieldByName("Rule").String()) {
			t.Errorf("got no limit for %s", name)
		}
	}
}
