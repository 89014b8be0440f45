package config

import "encoding/json"

// Strings is one text or a list of texts: "env: prod" and "env: [staging, prod]" are both written often. It
// reads both, in YAML and in JSON, and Encode writes one text where there is only one.
type Strings []string

// UnmarshalJSON accepts "a" and ["a", "b"].
func (s *Strings) UnmarshalJSON(b []byte) error {
	var one string
	if json.Unmarshal(b, &one) == nil && string(b) != "null" {
		*s = Strings{one}
		return nil
	}
	return json.Unmarshal(b, (*[]string)(s))
}
