package wire_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/threshold-access/threshold/internal/wire"
)

func TestFeaturesOfALaterVersionAreIgnored(t *testing.T) {
	t.Parallel()
	var f wire.Features
	if err := json.Unmarshal([]byte(`["faults","of-a-later-version-2"]`), &f); err != nil {
		t.Fatal(err)
	}
	if !f.Has("faults") || f.Has("early-requests") {
		t.Errorf("got %v, want it to have faults and not early-requests", f)
	}
}

func TestFeaturesRefuseWhatIsNoList(t *testing.T) {
	t.Parallel()
	var many []string
	for i := range 65 {
		many = append(many, fmt.Sprintf("feature-%d", i))
	}
	tooMany, err := json.Marshal(many)
	if err != nil {
		t.Fatal(err)
	}
	for name, b := range map[string]string{
		"too many":        string(tooMany),
		"too long a name": `["` + strings.Repeat("x", 33) + `"]`,
		"a line break":    `["a\nb"]`,
		"an empty name":   `[""]`,
		"no list":         `{"faults":true}`,
	} {
		var f wire.Features
		if err := json.Unmarshal([]byte(b), &f); err == nil || len(f) != 0 {
			t.Errorf("%s: got %v, %v; want it refused", name, f, err)
		}
	}
}
