package wire

import (
	"encoding/json"
	"fmt"
	"slices"

	"github.com/threshold-access/threshold/internal/ascii"
)

// Feature is the name of something that a program understands beyond the first version of a protocol. Names
// are append-only. Who does not know a name ignores it.
type Feature string

var nameForm = ascii.Form{First: ascii.Of("a-z"), Inner: ascii.Of("a-z0-9-"), Max: 32}

// IsName reports whether the text can be the name of a feature, a service or a kind of document: a lower-case
// letter, and up to 31 of those, digits and "-". This also bounds what a peer can make others log and pass
// on.
func IsName(text string) bool { return nameForm.Matches(text) }

// maxFeatures bounds a list. It is far above the number of features that there will be.
const maxFeatures = 64

// Features is what a program says that it understands: in a greeting, a request or a reply. The other side
// uses a feature only if it is in the list. It cannot make a program do more than that program is able to, so
// a list needs no signature: leaving out a name costs a convenience, and adding one causes an error.
type Features []Feature

// Has reports whether the feature is in the list.
func (f Features) Has(feature Feature) bool { return slices.Contains(f, feature) }

// UnmarshalJSON refuses a list that is too long or has something that is no name.
func (f *Features) UnmarshalJSON(b []byte) error {
	var names []Feature
	if err := json.Unmarshal(b, &names); err != nil {
		return err
	}
	if len(names) > maxFeatures {
		return fmt.Errorf("a list of %d features has more than %d", len(names), maxFeatures)
	}
	for _, name := range names {
		if !IsName(string(name)) {
			return fmt.Errorf("%.64q is not the name of a feature", string(name))
		}
	}
	*f = names
	return nil
}
