// Package audit answers: what is an audit event?
//
// Every security-relevant fact has a code of its own, so that searches and alerts never depend on wording.
// All events have the same envelope (Event); what else an event says depends on its code (Body).
// docs/audit.schema.json describes both for programs that read the log.
package audit

import (
	"bytes"
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"time"

	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/identity"
	"github.com/threshold-access/threshold/internal/wire"
)

// Version is the newest version of events that this code reads. New writes the lowest that has the code.
const Version = 1

// Event is one fact. Only the auth service stores events. Nodes send theirs to it; it then writes who said
// so, and when it heard of it.
type Event struct {
	V        int           `json:"v"`                  // the version of the format
	Critical wire.Critical `json:"critical,omitempty"` // fields that a reader must know, as body.rule

	ID      string    `json:"id"`   // 32 hex digits, unique
	Time    time.Time `json:"time"` // by the clock of the machine that says so
	Code    Code      `json:"code"` // what happened
	Outcome Outcome   `json:"outcome"`

	Actor   Actor   `json:"actor,omitzero"`   // who did it; absent if nobody is known
	SaidBy  Machine `json:"said_by,omitzero"` // the machine that says so
	Machine Machine `json:"machine,omitzero"` // the machine that the event is about
	Proxy   Machine `json:"proxy,omitzero"`   // the proxy that the client came through

	From       string                `json:"from,omitempty"`       // the client's address
	Connection identity.ConnectionID `json:"connection,omitempty"` // the same in all events of one

	// Spool and Number are the place of a machine's event in its spool. Each run of the spool draws an id and
	// begins with number 1.
	Spool    identity.InstanceID `json:"spool,omitempty"`
	Number   uint64              `json:"number,omitempty"`  // in the spool
	Lost     uint64              `json:"lost,omitempty"`    // how many numbers before this one never arrived
	Received time.Time           `json:"received,omitzero"` // when auth got it; absent for its own
	Late     bool                `json:"late,omitempty"`    // whether that was more than a minute after time

	Body json.RawMessage `json:"body"` // what else an event of this code says
}

// Actor is the user or machine that did something.
type Actor struct {
	Kind      identity.Kind      `json:"kind"`                // user, node, proxy or auth
	Name      string             `json:"name"`                // as an e-mail address, or the machine's name
	Connector string             `json:"connector,omitempty"` // of a user; with subject it identifies them
	Subject   string             `json:"subject,omitempty"`   // of a user: the provider's stable id
	LoginID   identity.LoginID   `json:"login_id,omitempty"`  // of a user: the login that it was done with
	ID        identity.MachineID `json:"id,omitempty"`        // of a machine
}

// Machine is a machine by kind, id and name.
type Machine struct {
	Kind identity.Kind      `json:"kind"`         // node, proxy or auth
	ID   identity.MachineID `json:"id,omitempty"` // absent if the one that says so does not know it
	Name string             `json:"name"`
}

// MachineOf returns the machine that an identity is of.
func MachineOf(id identity.Identity) Machine { return Machine{Kind: id.Kind, ID: id.ID, Name: id.Name} }

// Bounds of an event. A stream of the store takes a record of MaxBytes.
const (
	MaxBytes = 64 << 10 // the JSON of one event
	MaxText  = 1 << 10  // each text in it, in bytes
)

// truncatedBytes is how much Truncate keeps, in bytes. It is less than MaxText, so that a writer may add to
// it.
const truncatedBytes = 512

// Truncate shortens a text that another program chose, so that it fits into an event. It cuts at a whole
// character and marks the cut by an ellipsis.
func Truncate(s string) string {
	if len(s) <= truncatedBytes {
		return s
	}
	return strings.ToValidUTF8(s[:truncatedBytes], "") + "…"
}

// New makes an event of the body's code. actor is the user or machine that did it; a zero one means that
// nobody is known. An event of a machine is also about that machine.
func New(now time.Time, actor identity.Identity, body Body) Event {
	entry := byCode[body.code()]
	b, err := json.Marshal(body)
	if err != nil { // bodies have no types that fail; NewDocument checks resources
		panic(fmt.Sprintf("audit event %s: %v", entry.Code, err))
	}
	e := Event{V: entry.Since, Time: now.UTC(), Code: entry.Code, Outcome: entry.Outcome, Body: b}
	switch actor.Kind {
	case "":
	case identity.User:
		e.Actor = Actor{
			Kind:      actor.Kind,
			Name:      actor.Name,
			Connector: actor.Connector,
			Subject:   actor.Subject,
			LoginID:   actor.LoginID,
		}
	default:
		e.Actor = Actor{Kind: actor.Kind, Name: actor.Name, ID: actor.ID}
		e.Machine = MachineOf(actor)
	}
	return e
}

// Address is where a client comes from: a netip.Addr or netip.AddrPort.
type Address interface {
	IsValid() bool
	String() string
}

// Via returns the event of a client that came through a proxy, with the address that the proxy saw, if any.
func (e Event) Via(proxy string, from Address) Event {
	if from.IsValid() {
		e.From = from.String()
	}
	if proxy != "" {
		e.Proxy = Machine{Kind: identity.Proxy, Name: proxy}
	}
	return e
}

// BodyOf returns the body of an event. It fails for an event of another code than that of B.
func BodyOf[B Body](e Event) (B, error) {
	var body B
	if e.Code != body.code() {
		return body, fmt.Errorf("event %s has no body of %s", e.Code, body.code())
	}
	err := json.Unmarshal(e.Body, &body)
	return body, err
}

// Encode returns the JSON of an event that Check accepts and that has at most MaxBytes. Every error is a
// fault of kind Invalid.
func (e Event) Encode() ([]byte, error) {
	if err := e.Check(); err != nil {
		return nil, err
	}
	b, err := json.Marshal(e)
	if err != nil {
		return nil, malformed("its body is no JSON")
	}
	if len(b) > MaxBytes {
		return nil, malformed(fmt.Sprintf("it has %d bytes, more than %d", len(b), MaxBytes))
	}
	return b, nil
}

// Check returns a fault of kind Invalid for an event that this program cannot use: of a version, code or
// critical field that it does not know, without what every event has, with a body of another form than that
// of its code, or with a text longer than MaxText. The event may come from another machine: errors contain
// little of it.
func (e Event) Check() error {
	entry, registered := byCode[e.Code]
	if !registered {
		return malformed(fmt.Sprintf("its code %.20q is not registered", e.Code))
	}
	fields := entry.fieldsFor(e.Critical)
	if err := wire.Check("the audit event", e.V, Version, e.Critical, fields...); err != nil {
		return err
	}
	switch {
	case !isID(e.ID):
		return malformed("its id is not 32 hex digits")
	case e.Spool != "" && e.Spool.Check() != nil, (e.Spool == "") != (e.Number == 0):
		return malformed("its spool and number are no place in a spool")
	case e.Time.IsZero():
		return malformed("it has no time")
	case e.Outcome != entry.Outcome:
		return malformed(fmt.Sprintf("%s has another outcome than %.20q", e.Code, e.Outcome))
	}
	body := entry.newBody()
	if err := json.Unmarshal(e.Body, body); err != nil || !bytes.HasPrefix(e.Body, []byte("{")) {
		return malformed("its body does not have the form of " + string(e.Code))
	}
	envelope := e
	envelope.Body = nil
	if err := checkTexts("", reflect.ValueOf(envelope)); err != nil {
		return err
	}
	return checkTexts("body.", reflect.ValueOf(body).Elem())
}

// checkTexts returns a fault for a text in v, a struct, that is longer than MaxText, or that is empty
// although every event has it. path is in front of the names of the fields.
func checkTexts(path string, v reflect.Value) error {
	for i := range v.NumField() {
		name, options, _ := strings.Cut(v.Type().Field(i).Tag.Get("json"), ",")
		optional := strings.Contains(options, "omitempty") || strings.Contains(options, "omitzero")
		field := v.Field(i)
		if field.Kind() == reflect.Pointer {
			if field.IsNil() && !optional {
				return malformed("it has no " + path + name)
			}
			field = reflect.Indirect(field)
		}
		switch {
		case !field.IsValid() || optional && field.IsZero() || field.Type() == reflect.TypeFor[time.Time]():
		case field.Kind() == reflect.Struct:
			if err := checkTexts(path+name+".", field); err != nil {
				return err
			}
		case field.Kind() == reflect.String && field.Len() == 0:
			return malformed("it has no " + path + name)
		case field.Kind() == reflect.String && field.Len() > MaxText:
			name = path + name
			return malformed(fmt.Sprintf("its %s has %d bytes, more than %d", name, field.Len(), MaxText))
		}
	}
	return nil
}

// isID reports whether s is 32 lower-case hex digits, as the id of a machine is.
func isID(s string) bool { return identity.CheckMachineID(identity.MachineID(s)) == nil }

// malformed returns the fault of an event that is not well formed.
func malformed(why string) error { return eventMalformed.New("audit.Check", fault.Args{"why": why}) }
