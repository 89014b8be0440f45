package access_test

import (
	"encoding/json"
	"reflect"
	"testing"
	"time"

	"github.com/threshold-access/threshold/internal/access"
)

// WithDefaults gives each field that is not set a value, and keeps each one that is set.
func TestSettingsHaveDefaults(t *testing.T) {
	t.Parallel()
	defaults := reflect.ValueOf(access.Settings{}.WithDefaults())
	for i := range defaults.NumField() {
		name := defaults.Type().Field(i).Name
		if defaults.Field(i).IsZero() && name != "AuditRetention" { // zero is its default: keep
			t.Errorf("got no default of %s", name)
		}
	}
	set := access.Settings{
		RulesAge: 1, Tunnels: 3, Drain: 4, AuditRetention: 5, ResumeFor: 6, ResumeBuffer: 7,
	}
	if got := set.WithDefaults(); got != set {
		t.Errorf("got %+v, want what was set", got)
	}
	access.Settings{}.WithDefaults().Check(func(path, format string, args ...any) {
		t.Errorf("the default of %s is refused: "+format, append([]any{path}, args...)...)
	})
}

func TestRetentionIsWrittenAsPeopleWriteIt(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]access.Retention{
		`"keep"`:  0,
		`"2160h"`: access.Retention(2160 * time.Hour),
	} {
		var got access.Retention
		if err := json.Unmarshal([]byte(text), &got); err != nil || got != want {
			t.Errorf("%s: got %v, %v, want %v", text, got, err, want)
		}
		if b, err := json.Marshal(want); err != nil || string(b) != text {
			t.Errorf("got %s, %v, want %s", b, err, text)
		}
	}
	for _, text := range []string{`"0s"`, `"0"`, `""`, `"90d"`, `"forever"`, `90`} {
		got := access.Retention(1)
		if err := json.Unmarshal([]byte(text), &got); err == nil {
			t.Errorf("%s: got %v, want it refused", text, got)
		}
	}
}
