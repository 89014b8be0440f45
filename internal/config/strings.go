package config

import "encoding/json"

// Strings is a list of texts that may be written as a single one: both "env: prod" and "env: [staging,
// prod]". It reads both forms, in YAML and in JSON, and Encode writes one text where there is only one.
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
