package fault

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"time"
)

// wireForm is a fault in JSON: the body of a refused call, a part of other messages, and what
// "tsh --format=json" prints. It only gains fields, and has neither a version nor critical fields: it has to
// be shown whoever sent it. A reader translates the codes that it knows and shows the message of others.
type wireForm struct {
	Code       string            `json:"code,omitempty"`
	Kind       Kind              `json:"kind"`
	Message    string            `json:"message"` // in English, with the arguments in it
	Remedy     string            `json:"remedy,omitempty"`
	Args       map[string]string `json:"args,omitempty"`
	RetryAfter int64             `json:"retry_after,omitempty"` // in seconds
	Op         string            `json:"op,omitempty"`
	ID         string            `json:"id,omitempty"`
}

// object wraps a fault for places where a fault must be told from other text: inside SSH, and on the standard
// error of tsh.
type object struct {
	Error *Error `json:"error"`
}

// objectPrefix begins each object.
const objectPrefix = `{"error":`

// MarshalJSON implements json.Marshaler. The cause stays home.
func (e Error) MarshalJSON() ([]byte, error) {
	var out bytes.Buffer
	enc := json.NewEncoder(&out)
	enc.SetEscapeHTML(false) // no page gets this
	err := enc.Encode(wireForm{
		Code:       e.Code,
		Kind:       e.Kind,
		Message:    e.Msg,
		Remedy:     e.Remedy,
		Args:       e.Args,
		RetryAfter: int64(wholeSeconds(e.RetryAfter) / time.Second),
		Op:         e.Op,
		ID:         e.ID,
	})
	return bytes.TrimSpace(out.Bytes()), err
}

// UnmarshalJSON implements json.Unmarshaler. The sender may be hostile: what is too long is cut off, and
// characters that a terminal could obey are replaced. JSON that is no fault becomes an Internal one that says
// so, and no error: the receiver always has something to show. A kind or code that this release does not know
// is kept.
func (e *Error) UnmarshalJSON(b []byte) error {
	var w wireForm
	if err := json.Unmarshal(b, &w); err != nil || w.Kind == "" || w.Message == "" {
		*e = *unreadable.New("")
		e.Err = fmt.Errorf("decode fault: %d bytes", len(b))
		return nil
	}
	*e = Error{
		Kind:   w.Kind,
		Op:     clean(w.Op, maxNameBytes),
		Msg:    cleanLines(w.Message, maxMessageBytes),
		Remedy: clean(w.Remedy, maxRemedyBytes),
		Args:   cleanArgs(w.Args),
		ID:     clean(w.ID, maxNameBytes),
	}
	if isName(w.Code) {
		e.Code = w.Code
	}
	if !isName(string(w.Kind)) {
		e.Kind = Internal
	}
	e.RetryAfter = time.Duration(min(max(w.RetryAfter, 0), maxRetrySeconds)) * time.Second
	return nil
}

// maxRetrySeconds bounds what a peer may say about when to try again: a week.
const maxRetrySeconds = 7 * 24 * 60 * 60

// cleanArgs returns the first maxArgs of the arguments that have valid names, with their values cleaned.
func cleanArgs(args map[string]string) map[string]string {
	var out map[string]string
	for _, name := range slices.Sorted(maps.Keys(args)) {
		if !isName(name) || len(out) == maxArgs {
			continue
		}
		if out == nil {
			out = map[string]string{}
		}
		out[name] = clean(args[name], maxArgBytes)
	}
	return out
}

// unreadable is what Decode makes of bytes that are no fault.
var unreadable = Code{
	Name:   "answer-unreadable",
	Kind:   Internal,
	Text:   "the server's answer could not be read",
	Remedy: "check that client and server versions match: tsh version",
}

// Decode reads a fault from its JSON form. Bytes that are no fault give an Internal one, so a caller always
// has one to show. See UnmarshalJSON.
func Decode(b []byte) *Error {
	e := new(Error)
	if err := json.Unmarshal(b, e); err != nil {
		_ = e.UnmarshalJSON(nil)
	}
	return e
}

// MarshalObject returns {"error": …} with e, in at most limit bytes: it leaves out the arguments and shortens
// the texts if they need more. limit must be at least 1 KiB.
func MarshalObject(e *Error, limit int) []byte {
	b, _ := json.Marshal(object{e}) // strings always can be encoded
	if len(b) > limit {
		b, _ = json.Marshal(object{e.Shorten(limit)})
	}
	return b
}

// ParseObject reads what MarshalObject wrote. ok is false for any other text.
func ParseObject(b []byte) (e *Error, ok bool) {
	if !bytes.HasPrefix(b, []byte(objectPrefix)) {
		return nil, false
	}
	var o object
	if err := json.Unmarshal(b, &o); err != nil || o.Error == nil {
		return nil, false
	}
	return o.Error, true
}

// Shorten returns a copy of e whose JSON form has at most limit bytes, for messages with little room: without
// arguments, and with the texts cut off where that is not enough. limit must be at least 1 KiB.
func (e *Error) Shorten(limit int) *Error {
	// JSON writes a byte with up to six; the names need up to maxNameBytes each.
	const namesBytes = 600
	out := *e
	out.Err, out.Args = nil, nil
	if b, err := out.MarshalJSON(); err == nil && len(b)+len(objectPrefix)+1 <= limit {
		return &out
	}
	room := (limit - namesBytes) / 6
	out.Msg, out.Remedy = cut(out.Msg, room/2), cut(out.Remedy, room/2)
	out.Op = cut(out.Op, maxNameBytes)
	return &out
}
