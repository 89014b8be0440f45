package access

import (
	"cmp"
	"fmt"
	"time"
)

// ClusterSettings is the kind of the document with the settings of the cluster. There is one of it.
const ClusterSettings Resource = "settings"

// Settings hold for the whole cluster. Nodes and proxies read them from the signed rules. A field that is
// zero is not set and has its default: see WithDefaults.
type Settings struct {
	// RulesAge is how old the rules of a node or proxy may be: if it has heard nothing newer, it refuses
	// sessions. 1m to 168h.
	RulesAge Duration `json:"rules_age,omitzero" yaml:"rules_age,omitempty"`
	// Tunnels is how many tunnels a node keeps, each to another proxy. It counts when the agent starts. 1 to
	// 8.
	Tunnels int `json:"tunnels,omitzero" yaml:"tunnels,omitempty"`
	// Drain is how long sessions may go on after SIGTERM of a node or proxy whose configuration does not say
	// so itself. 1s to 1h.
	Drain Duration `json:"drain,omitzero" yaml:"drain,omitempty"`
	// AuditRetention is how long audit events are kept. The default keeps them for ever. At least 24h.
	AuditRetention Retention `json:"audit_retention"          yaml:"audit_retention,omitempty"`
	// ResumeFor is how long a node keeps the sessions of a client whose connection has broken, and
	// ResumeBuffer how many bytes of each direction. No program of this release resumes sessions.
	ResumeFor    Duration `json:"resume_for,omitzero"    yaml:"resume_for,omitempty"`
	ResumeBuffer int      `json:"resume_buffer,omitzero" yaml:"resume_buffer,omitempty"`
}

// Bounds of the settings.
const (
	minRulesAge, maxRulesAge         = time.Minute, 7 * 24 * time.Hour
	maxTunnels                       = 8
	minDrain, maxDrain               = time.Second, time.Hour
	minRetention                     = 24 * time.Hour
	minResumeFor, maxResumeFor       = time.Second, 24 * time.Hour
	minResumeBuffer, maxResumeBuffer = 16 << 10, 16 << 20
)

// defaultSettings are the settings of a cluster that has set none.
var defaultSettings = Settings{
	RulesAge:     Duration(24 * time.Hour),
	Tunnels:      2,
	Drain:        Duration(10 * time.Second),
	ResumeFor:    Duration(5 * time.Minute),
	ResumeBuffer: 1 << 20,
}

// WithDefaults returns the settings with the default in the place of each field that is not set.
func (s Settings) WithDefaults() Settings {
	return Settings{
		RulesAge:       cmp.Or(s.RulesAge, defaultSettings.RulesAge),
		Tunnels:        cmp.Or(s.Tunnels, defaultSettings.Tunnels),
		Drain:          cmp.Or(s.Drain, defaultSettings.Drain),
		AuditRetention: cmp.Or(s.AuditRetention, defaultSettings.AuditRetention),
		ResumeFor:      cmp.Or(s.ResumeFor, defaultSettings.ResumeFor),
		ResumeBuffer:   cmp.Or(s.ResumeBuffer, defaultSettings.ResumeBuffer),
	}
}

// Check reports the settings that are out of their range. It calls report once for each, with the name of the
// field and a message. A field that is zero is not set.
func (s Settings) Check(report func(path, format string, args ...any)) {
	durations := []struct {
		key      string
		value    Duration
		min, max time.Duration
	}{
		{"rules_age", s.RulesAge, minRulesAge, maxRulesAge},
		{"drain", s.Drain, minDrain, maxDrain},
		{"resume_for", s.ResumeFor, minResumeFor, maxResumeFor},
	}
	for _, f := range durations {
		if d := time.Duration(f.value); d != 0 && (d < f.min || d > f.max) {
			report(f.key, "%s is not between %s and %s", f.value, Duration(f.min), Duration(f.max))
		}
	}
	counts := []struct {
		key             string
		value, min, max int
	}{
		{"tunnels", s.Tunnels, 1, maxTunnels},
		{"resume_buffer", s.ResumeBuffer, minResumeBuffer, maxResumeBuffer},
	}
	for _, f := range counts {
		if f.value != 0 && (f.value < f.min || f.value > f.max) {
			report(f.key, "%d is not between %d and %d", f.value, f.min, f.max)
		}
	}
	if r := time.Duration(s.AuditRetention); r != 0 && r < minRetention {
		report("audit_retention", "%s is less than %s: write %s to keep all events",
			Duration(r), Duration(minRetention), keep)
	}
}

// Retention is how long something is kept. Zero means for ever, and is written "keep".
type Retention time.Duration

const keep = "keep"

// MarshalText writes "keep", or a duration as "2160h".
func (r Retention) MarshalText() ([]byte, error) {
	if r == 0 {
		return []byte(keep), nil
	}
	return Duration(r).MarshalText()
}

// UnmarshalText accepts "keep", and what Duration does, except for zero: it could be meant to keep nothing.
func (r *Retention) UnmarshalText(b []byte) error {
	*r = 0
	if string(b) == keep {
		return nil
	}
	var d Duration
	if err := d.UnmarshalText(b); err != nil {
		return fmt.Errorf("%w, or %s", err, keep)
	}
	if d == 0 {
		return fmt.Errorf("%q is not a time to keep something: write %s to keep it for ever", b, keep)
	}
	*r = Retention(d)
	return nil
}
