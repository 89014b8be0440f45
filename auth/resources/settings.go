package resources

import (
	"context"

	"github.com/threshold-access/threshold/auth/state"
	"github.com/threshold-access/threshold/internal/access"
	"github.com/threshold-access/threshold/internal/authrpc"
	"github.com/threshold-access/threshold/internal/fault"
)

// settingsKind reads and changes the settings of the cluster: one document, which is always there. It shows
// the default of each field that nobody has set.
type settingsKind struct{ settings Settings }

// SettingsName is the name of the only document of its kind.
const SettingsName = "cluster"

// document turns the stored settings into a document.
func (k settingsKind) document(s state.Stored[access.Settings]) (authrpc.Resource, error) {
	return document("settings", SettingsName, s.Revision, s.Value.WithDefaults(), nil)
}

func (k settingsKind) get(ctx context.Context, name string) (authrpc.Resource, error) {
	if err := checkSettingsName(name); err != nil {
		return authrpc.Resource{}, err
	}
	got, err := k.settings.Settings(ctx)
	return oneDocument(got, err, k.document)
}

// list returns the one document, which is the whole first page.
func (k settingsKind) list(ctx context.Context, p state.Page) ([]authrpc.Resource, string, error) {
	if p.After >= SettingsName {
		return nil, "", nil
	}
	doc, err := k.get(ctx, SettingsName)
	if err != nil {
		return nil, "", err
	}
	return []authrpc.Resource{doc}, "", nil
}

// apply replaces the settings. A field that the spec leaves out has its default afterwards. There is no check
// of what the caller gains: no setting gives anybody access.
func (k settingsKind) apply(
	ctx context.Context, by caller, doc authrpc.Resource,
) (out authrpc.ApplyResourceResponse, err error) {
	if err := checkSettingsName(doc.Metadata.Name); err != nil {
		return out, err
	}
	var next access.Settings
	if err := decodeSpec(doc, &next); err != nil {
		return out, err
	}
	old, err := k.settings.Settings(ctx)
	if err != nil {
		return out, err
	}
	if err := checkRevision(doc.Metadata.Revision, old.Revision); err != nil {
		return out, err
	}
	stored := state.Stored[access.Settings]{Value: next}
	e, err := changeEvent(by, access.ClusterSettings, &old, stored, k.document)
	if err != nil {
		return out, err
	}
	// A compare-and-set: fault Conflict if the settings were changed since they were read above.
	if err := k.settings.PutSettings(ctx, old, next, by.now, e); err != nil {
		return out, err
	}
	out.Resource, err = k.get(ctx, SettingsName)
	return out, err
}

// remove is refused: the settings are always there.
func (k settingsKind) remove(context.Context, caller, string) error {
	return settingsNotRemovable.New("resources.Remove")
}

// checkSettingsName returns fault NotFound for any name but that of the only document.
func checkSettingsName(name string) error {
	if name == SettingsName {
		return nil
	}
	return settingsUnknown.New("resources", fault.Args{"name": name, "known": SettingsName})
}
