package resources_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/threshold-access/threshold/auth/resources"
	"github.com/threshold-access/threshold/internal/access"
	events "github.com/threshold-access/threshold/internal/audit"
	"github.com/threshold-access/threshold/internal/fault"
)

func settingsSpec(t *testing.T, spec []byte) (s map[string]any) {
	t.Helper()
	if err := json.Unmarshal(spec, &s); err != nil {
		t.Fatal(err)
	}
	return s
}

// The settings are always there, with the defaults of what nobody has set. Only who may apply them changes
// them, and each change is an audit event.
func TestSettingsAreAlwaysThere(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	first := f.getOne(access.ClusterSettings, "")
	want := map[string]any{
		"rules_age": "24h", "tunnels": 2.0, "drain": "10s", "audit_retention": "keep", "resume_for": "5m",
		"resume_buffer": 1048576.0,
	}
	for key, value := range settingsSpec(t, first.Spec) {
		if want[key] != value {
			t.Errorf("%s: got %v of a new cluster, want the default %v", key, value, want[key])
		}
		delete(want, key)
	}
	if len(want) > 0 {
		t.Errorf("got no default of %v", want)
	}
	change := doc("settings", resources.SettingsName, `{"rules_age":"15m"}`)
	for _, other := range access.Resources {
		if other != access.ClusterSettings {
			f.wantRefusedAndRecorded(keeperOf(other), access.ClusterSettings, change)
		}
	}
	before := f.countEvents(events.ResourceApplied)
	out, err := f.apply(keeperOf(access.ClusterSettings), change)
	f.must(err)
	if got := settingsSpec(t, out.Resource.Spec); got["rules_age"] != "15m" || got["tunnels"] != 2.0 {
		t.Errorf("got %v, want the new rules_age and the defaults of the rest", got)
	}
	if n := f.countEvents(events.ResourceApplied) - before; n != 1 {
		t.Errorf("got %d events of the change, want 1", n)
	}
	policy, err := f.st.Policy(t.Context())
	f.must(err)
	if got := policy.Settings.RulesAge; got.String() != "15m" {
		t.Errorf("got a rules_age of %s in force, want 15m", got)
	}
	again := f.getOne(access.ClusterSettings, resources.SettingsName)
	if _, err := f.apply(admin, again); err != nil {
		t.Errorf("what was read is applied again: got %v", err)
	}
	_, err = f.apply(admin, again)
	f.wantFault("with a revision that was changed", err, fault.Conflict)
	f.wantFault("rm", f.remove(admin, access.ClusterSettings, resources.SettingsName), fault.Invalid)
	_, err = f.get(admin, access.ClusterSettings, "other")
	f.wantFault("another name", err, fault.NotFound)
	f.mustApply(doc("settings", resources.SettingsName, `{}`))
	if got := settingsSpec(t, f.getOne(access.ClusterSettings, "").Spec); got["rules_age"] != "24h" {
		t.Errorf("got %v after an empty spec, want the defaults", got)
	}
}

func TestSettingsAreCheckedStrictly(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	for spec, says := range map[string]string{
		`{"rules_agee":"15m"}`:           "rules_agee",
		`{"rules_age":"30s"}`:            "rules_age: 30s is not between 1m and 168h",
		`{"rules_age":"169h"}`:           "rules_age",
		`{"tunnels":9}`:                  "tunnels: 9 is not between 1 and 8",
		`{"tunnels":-1}`:                 "tunnels",
		`{"drain":"2h"}`:                 "drain",
		`{"audit_retention":"1h"}`:       "audit_retention: 1h is less than 24h",
		`{"audit_retention":"0s"}`:       "write keep",
		`{"audit_retention":"for ever"}`: "is not a duration",
		`{"resume_for":"25h"}`:           "resume_for",
		`{"resume_buffer":1}`:            "resume_buffer",
	} {
		_, err := f.apply(admin, doc("settings", resources.SettingsName, spec))
		f.wantFault(spec, err, fault.Invalid)
		if !strings.Contains(fault.Message(err), says) {
			t.Errorf("%s: got %q, want it to say %q", spec, fault.Message(err), says)
		}
	}
	_, err := f.apply(admin, doc("settings", "mine", `{}`))
	f.wantFault("another name", err, fault.NotFound)
	good := `{"audit_retention":"2160h","tunnels":3,"drain":"1h"}`
	f.mustApply(doc("settings", resources.SettingsName, good))
}
