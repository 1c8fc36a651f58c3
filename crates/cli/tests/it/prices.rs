//! AWS's prices, asked of a server in this process that answers in the price list's form: AWS itself cannot be asked here.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    process::Output,
};

use pgleap_upgrade::plan::Prices;
use serde_json::{Value, json};

use crate::{bed::Bed, docs::reading::ours};

/// Family, engine, use, class, unit and price.
type Listed = (&'static str, &'static str, &'static str, Option<&'static str>, &'static str, &'static str);

/// What the list holds.
const PRODUCTS: [Listed; 6] = [
    ("Database Instance", "Aurora PostgreSQL", "EUC1-InstanceUsage:db.r6g.4xl", Some("db.r6g.4xlarge"), "Hrs", "2.504"),
    (
        "Database Instance",
        "Aurora PostgreSQL",
        "EUC1-InstanceUsageIOOptimized:db.r6g.4xl",
        Some("db.r6g.4xlarge"),
        "Hrs",
        "3.256",
    ),
    ("Database Instance", "PostgreSQL", "EUC1-InstanceUsage:db.r6g.4xl", Some("db.r6g.4xlarge"), "Hrs", "2.16"),
    ("Database Storage", "Any", "EUC1-Aurora:StorageUsage", None, "GB-Mo", "0.119"),
    ("Database Storage", "PostgreSQL", "EUC1-RDS:GP3-Storage", None, "GB-Mo", "0.137"),
    ("System Operation", "Any", "EUC1-Aurora:StorageIOUsage", None, "IOs", "0.00000022"),
];

/// One page of the answer: each product that fits every filter, two to a page.
fn page(asked: &Value) -> Value {
    let filter = |field: &str| {
        let filters = asked["Filters"].as_array().unwrap();
        filters
            .iter()
            .find(|filter| filter["Field"] == field)
            .map(|filter| filter["Value"].as_str().unwrap().to_owned())
    };
    let fits = |field: &str, is: &str| filter(field).is_none_or(|wanted| wanted == is);
    let found = PRODUCTS.iter().filter(|(family, engine, _, class, ..)| {
        fits("regionCode", "eu-central-1")
            && fits("productFamily", family)
            && fits("databaseEngine", engine)
            && fits("instanceType", class.unwrap_or_default())
    });
    let texts: Vec<_> = found
        .map(|(family, engine, usage, class, unit, usd)| {
            json!({
                "product": {
                    "productFamily": family,
                    "attributes": { "databaseEngine": engine, "usagetype": usage, "instanceType": class },
                },
                "terms": { "OnDemand": { "T": { "priceDimensions": {
                    "R": { "unit": unit, "pricePerUnit": { "USD": usd } },
                } } } },
            })
            .to_string()
        })
        .collect();
    let from = asked["NextToken"].as_str().map_or(0, |token| token.parse::<usize>().unwrap());
    let to = texts.len().min(from + 1);
    let mut answer = json!({ "FormatVersion": "aws_v1", "PriceList": &texts[from..to] });
    if to < texts.len() {
        answer["NextToken"] = to.to_string().into();
    }
    answer
}

fn answer(stream: TcpStream, signed: bool) {
    let mut reader = BufReader::new(stream);
    let (mut length, mut has_signature) = (0, false);
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).unwrap() == 0 {
            return;
        }
        let (name, value) = line.trim().split_once(": ").unwrap_or((line.trim(), ""));
        match name.to_lowercase().as_str() {
            "" => break,
            "content-length" => length = value.parse().unwrap(),
            "authorization" => has_signature = value.starts_with("AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/"),
            _ => {}
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).unwrap();
    let (status, body) = match signed && has_signature {
        true => ("200 OK", page(&serde_json::from_slice(&body).unwrap())),
        false => (
            "400 Bad Request",
            json!({ "__type": "UnrecognizedClientException", "message": "The security token is invalid." }),
        ),
    };
    let body = body.to_string();
    let head = "Content-Type: application/x-amz-json-1.1\r\nConnection: close";
    let mut stream = reader.into_inner();
    // who has what it wants may hang up
    drop(write!(stream, "HTTP/1.1 {status}\r\n{head}\r\nContent-Length: {}\r\n\r\n{body}", body.len()));
}

/// Runs `pgleap prices` against such a server.
fn prices(bed: &Bed, signed: bool, arguments: &[&str]) -> Output {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            answer(stream.unwrap(), signed);
        }
    });
    let mut command = bed.command(&[&["prices"], arguments].concat());
    command.env("AWS_ENDPOINT_URL_PRICING", url).env("AWS_EC2_METADATA_DISABLED", "true");
    command.env("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE").env("AWS_SECRET_ACCESS_KEY", "not-a-secret");
    command.output().unwrap()
}

#[test]
fn prices_of_a_region_are_a_table_that_a_plan_can_use() {
    let bed = Bed::new();
    let told = ours("docs/plan.md");
    let [line] = told.as_slice() else { panic!("{told:?}") };
    let arguments: Vec<_> = line.command.strip_prefix("pgleap prices ").unwrap().split(' ').collect();
    let ended = prices(&bed, true, &arguments);
    assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
    let table = Prices::load(&bed.path("prices.toml")).unwrap();
    assert_eq!(table.name, "AWS's price list: on demand, eu-central-1");
    let aurora = table.aurora.unwrap();
    assert_eq!(aurora.instance_hour, [("db.r6g.4xlarge".to_owned(), 2.504)].into());
    assert_eq!((aurora.storage_gb_month, table.rds.unwrap().storage_gb_month), (0.119, 0.137));
}

#[test]
fn prices_that_cannot_be_had_are_one_clear_error() {
    let bed = Bed::new();
    let ended = prices(&bed, false, &["--region", "eu-central-1"]);
    let text = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert_eq!(ended.status.code(), Some(1), "{text}");
    for part in ["error: AWS's price list cannot be asked", "security token is invalid", "`pricing:GetProducts`"] {
        assert!(text.contains(part), "`{part}` is not in:\n{text}");
    }
    let ended = prices(&bed, true, &["--region", "eu-centrall-1"]);
    let text = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert!(text.contains("no storage for Aurora in Region `eu-centrall-1`"), "{text}");
    assert!(!bed.path("prices.toml").exists());
}
