package access_test

import (
	"testing"
	"time"

	"github.com/threshold-access/threshold/internal/access"
)

// Of each limit the strictest counts, and is returned with the role that sets it.
func TestTheStrictestLimitOfAUsersRolesWins(t *testing.T) {
	t.Parallel()
	role := func(idle, session time.Duration, count int, end bool) access.Role {
		return access.Role{
			Options: access.Options{
				IdleTimeout:        access.Duration(idle),
				MaxSession:         access.Duration(session),
				MaxSessions:        access.Count(count),
				EndWithCertificate: end,
			},
		}
	}
	p := access.Policy{Roles: map[string]access.Role{
		"free":   {},
		"short":  role(time.Minute, 8*time.Hour, 5, false),
		"few":    role(time.Hour, 0, 1, true),
		"day":    role(0, time.Hour, 0, true),
		"broken": role(-1, -1, -1, false),
	}}
	d := func(at time.Duration, rule string) access.Limit[time.Duration] {
		return access.Limit[time.Duration]{Value: at, Rule: rule}
	}
	n := func(at int, rule string) access.Limit[int] { return access.Limit[int]{Value: at, Rule: rule} }
	end := func(rule string) access.Limit[bool] { return access.Limit[bool]{Value: true, Rule: rule} }
	for _, tt := range []struct {
		name  string
		roles []string
		want  access.Limits
	}{
		{"no role", nil, access.Limits{}},
		{"a role that says nothing", []string{"free"}, access.Limits{}},
		{"a role that was removed", []string{"gone"}, access.Limits{}},
		{"one role", []string{"short"},
			access.Limits{IdleTimeout: d(time.Minute, "role short, idle_timeout"),
				MaxSession: d(8*time.Hour, "role short, max_session"), MaxSessions: n(5,
					"role short, max_sessions")}},
		{"several", []string{"free", "short", "few", "day"},
			access.Limits{IdleTimeout: d(time.Minute, "role short, idle_timeout"),
				MaxSession: d(time.Hour, "role day, max_session"),
				MaxSessions: n(1,
					"role few, max_sessions"), EndWithCertificate: end("role few, end_with_certificate")}},
		{"in another order", []string{"day", "few", "short"},
			access.Limits{IdleTimeout: d(time.Minute, "role short, idle_timeout"),
				MaxSession: d(time.Hour, "role day, max_session"),
				MaxSessions: n(1,
					"role few, max_sessions"), EndWithCertificate: end("role day, end_with_certificate")}},
		{"limits that Check would refuse", []string{"few", "broken"},
			access.Limits{IdleTimeout: d(-1, "role broken, idle_timeout"),
				MaxSession: d(-1, "role broken, max_session"),
				MaxSessions: n(-1,
					"role broken, max_sessions"), EndWithCertificate: end("role few, end_with_certificate")}},
	} {
		if got := access.LimitsOf(p, user(tt.roles...)); got != tt.want {
			t.Errorf("%s: got %+v, want %+v", tt.name, got, tt.want)
		}
	}
}
