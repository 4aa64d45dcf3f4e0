package ldap_test

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"switchyard/lookup"
	"switchyard/lookup/ldap"
	"switchyard/lookup/lookuptest"
)

func TestPresets(t *testing.T) {
	t.Parallel()
	s := common(t)
	const (
		store1, store2 = "store1.laser.test", "store2.zimbra.test"
		mib            = 1 << 20
	)
	only := map[string]string{"fwdonly": "1"}
	for preset, wants := range map[string][]lookup.Account{
		"laser": {
			{Name: "full@laser.test", Home: store1, Status: lookup.StatusOK, Quota: mib, Forwards: []string{"copy@elsewhere.test"}},
			{Name: "unlimited@laser.test", Home: store1},
			{Name: "away@laser.test", Home: store1, Forwards: []string{"one@elsewhere.test", "two@elsewhere.test"}, Attributes: only},
			{Name: "inactive@laser.test", Home: store1, Status: lookup.StatusSuspended},
			{Name: "held@laser.test", Home: store1, Status: lookup.StatusSuspended},
			{Name: "gone@laser.test", Home: store1, Status: lookup.StatusClosed},
			{Name: "overquota@laser.test", Home: store1, Status: lookup.StatusOK},
		},
		"zimbra": {
			{Name: "full@zimbra.test", Home: store2, Status: lookup.StatusOK, Forwards: []string{"a@elsewhere.test", "b@elsewhere.test", "c@elsewhere.test"}},
			{Name: "away@zimbra.test", Home: store2, Quota: 5000, Forwards: []string{"a@elsewhere.test"}, Attributes: only},
			{Name: "maintenance@zimbra.test", Home: store2, Status: lookup.StatusSuspended},
			{Name: "locked@zimbra.test", Home: store2, Status: lookup.StatusSuspended},
			{Name: "closed@zimbra.test", Home: store2, Status: lookup.StatusClosed},
		},
		"ad": {
			{Name: "normal@ad.test", Home: "b1", Status: lookup.StatusOK},
			{Name: "disabled@ad.test", Status: lookup.StatusSuspended},
			{Name: "never-expires@ad.test", Status: lookup.StatusOK},
		},
		"ad-upn": {
			{Name: "normal.upn@corp.ad.test", Home: "b1", Status: lookup.StatusOK},
		},
	} {
		opts, err := ldap.Preset(preset, ldap.Options{BindDN: serviceDN, Password: servicePass})
		if err != nil {
			t.Fatal(err)
		}
		d := openAll(t, []string{s.plain}, "ou="+strings.TrimSuffix(preset, "-upn")+",dc=example,dc=test", opts)
		for _, want := range wants {
			got, err := d.Lookup(t.Context(), want.Name)
			if err != nil || lookuptest.Diff(want, got) != "" || got.Attributes["fwdonly"] != want.Attributes["fwdonly"] {
				t.Errorf("%s: %s: got %+v, %v, want %+v", preset, want.Name, got, err, want)
			}
			local, _, _ := strings.Cut(want.Name, "@")
			c := lookup.Credentials{Name: want.Name, Password: "sesame-" + strings.TrimSuffix(local, ".upn")}
			if _, err := d.Check(t.Context(), c); err != nil {
				t.Errorf("%s: check %s: %v", preset, want.Name, err)
			}
		}
		for _, name := range []string{"nobody@laser.test", "printer@ad.test", "*@ad.test"} {
			if _, err := d.Lookup(t.Context(), name); !errors.Is(err, lookup.ErrAbsent) {
				t.Errorf("%s: %s: got %v, want absent", preset, name, err)
			}
		}
		if _, err := d.Lookup(t.Context(), "odd@laser.test"); preset == "laser" && !strings.Contains(errorText(err), "mailQuota") {
			t.Errorf("a quota that is no number of bytes: got %v", err)
		}
	}
}

func errorText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// The options that are set win over the preset, and take what belongs to the
// preset's attributes with them.
func TestPresetIsOverridden(t *testing.T) {
	t.Parallel()
	got, err := ldap.Preset("ad", ldap.Options{Home: "info", Status: "employeeType", Name: "mail"})
	if err != nil {
		t.Fatal(err)
	}
	if got.Home != "info" || got.Status != "employeeType" || got.DisabledBits != 0 || got.Quota != "-" {
		t.Errorf("got %+v", got)
	}
	if _, err := ldap.New([]string{"ldap://127.0.0.1:1"}, base, ldap.Options{Status: "a b", DisabledBits: 2}); err == nil {
		t.Error("bits of two attributes were accepted")
	}
	for _, name := range ldap.Presets() {
		if _, err := ldap.Preset(name, ldap.Options{}); err != nil {
			t.Error(err)
		}
	}
	_, err = ldap.Preset("notes", ldap.Options{})
	if !strings.Contains(errorText(err), `"notes" is none of ad, ad-upn, laser, switchyard, zimbra`) || !slices.IsSorted(ldap.Presets()) {
		t.Errorf("got %v", err)
	}
}
