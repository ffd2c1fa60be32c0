use clap::{CommandFactory, Parser};

use super::*;

#[test]
fn arguments_are_consistent() {
    Cli::command().debug_assert();
}

#[test]
fn lines_from_the_documentation_parse() {
    for (line, ok) in [
        ("heirloom serve", true),
        ("heirloom serve --config /etc/heirloom/heirloom.toml --check", true),
        ("heirloom serve --log-format yaml", false),
        ("heirloom status", true),
        ("heirloom status shop -o json --watch", true),
        ("heirloom status shop -o xml", false),
        ("heirloom handover shop 2.0.0 --expect-generation 7 --wait-ready 60s", true),
        ("heirloom handover shop --instance i-4f2a --dry-run", true),
        ("heirloom handover shop 2.0.0 --instance i-4f2a", false),
        ("heirloom handover shop 2.0.0 --detach --follow-drain", false),
        ("heirloom handover shop 2.0.0 --freeze-timeout 50", false), // a duration without its unit
        ("heirloom handover shop 2.0.0 --freeze-timeout 50ms --retire-after 10m", true),
        ("heirloom handover shop 2.0.0 --all", true),
        ("heirloom handover shop --all --expect-generation 7", false),
        ("heirloom handover shop --all --detach", false),
        ("heirloom handover shop --request-id 7", false),
        ("heirloom handover shop --request-id 67e55044-10b1-426f-9247-bb680e5fe0c8", true),
        ("heirloom handover shop --force -y", true),
        ("heirloom handover", false),
        ("heirloom doctor", true),
        ("heirloom rollback shop", true),
        ("heirloom rollback shop --handover 17 --expect-generation 8", true),
        ("heirloom rollback shop --handover last", false),
        ("heirloom abort shop", true),
        ("heirloom abort shop 17", true),
        ("heirloom drain shop i-4f2a --timeout 5m", true),
        ("heirloom drain shop", false),
        ("heirloom wait shop --for drained=1.9.0 --timeout 5m", true),
        ("heirloom wait shop --for happy", false),
        ("heirloom wait shop --for owner=", false),
        ("heirloom wait shop --for generation=x", false),
        ("heirloom wait shop", false),
        ("heirloom history shop -n 5", true),
        ("heirloom history shop 17 -o json", true),
        ("heirloom watch", true),
        ("heirloom watch shop --after 12 -o jsonl", true),
        ("heirloom verify shop", true),
        ("heirloom verify --file /dev/shm/heirloom/shop", true),
        ("heirloom verify shop --file /dev/shm/heirloom/shop", false),
        ("heirloom verify", false),
        ("heirloom dump /dev/shm/heirloom/shop --objects --pages", true),
        ("heirloom dump", false),
        ("heirloom snapshot create shop", false),
        ("heirloom settings list shop", false),
        ("heirloom config check /etc/heirloom/heirloom.toml", true),
        ("heirloom config show --default", true),
        ("heirloom completions zsh", true),
        ("heirloom completions powershell", true),
        ("heirloom completions tcsh", false),
        ("heirloom --socket https://db1:7432 status", true),
        ("heirloom status --tls-cert a.pem", false),
    ] {
        let got = Cli::try_parse_from(line.split(' '));
        assert_eq!(got.is_ok(), ok, "{line}: {:?}", got.err().map(|e| e.to_string()));
    }
}

#[test]
fn conditions_name_what_is_allowed() {
    assert_eq!("generation=8".parse(), Ok(Condition::Generation(8)));
    assert_eq!("owner=2.0.0=x".parse(), Ok(Condition::Owner("2.0.0=x".into())));
    assert!("generation=-1".parse::<Condition>().unwrap_err().contains("generation=N"));
}
