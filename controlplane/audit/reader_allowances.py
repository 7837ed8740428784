"""What a reader's statement may consist of, as tables: syntax, tables, functions, settings, formats.

Everything here is a list of what is allowed. Syntax, functions or settings that a later ClickHouse adds are refused
until somebody has looked at them. Names are those of `parseQueryToJSON` and of the `system` tables of ClickHouse 26.9.
"""

from collections.abc import Mapping
from typing import Final

_OUTPUT: Final = ("is_outfile_append", "is_outfile_truncate", "is_into_outfile_with_stdout")

#: Syntax node -> the fields that it may have. `out_file` (INTO OUTFILE) is missing on purpose.
NODE_FIELDS: Final[Mapping[str, frozenset[str]]] = {
    kind: frozenset(fields)
    for kind, fields in {
        "ArrayJoin": ("expression_list", "kind"),
        "Asterisk": ("transformers",),
        "ColumnsApplyTransformer": ("func_name", "lambda", "lambda_arg", "parameters"),
        "ColumnsExceptTransformer": ("children", "pattern"),
        "ColumnsListMatcher": ("column_list", "transformers"),
        "ColumnsRegexpMatcher": ("pattern", "transformers"),
        "ColumnsReplaceTransformer": ("children",),
        "ColumnsReplaceTransformerReplacement": ("children", "name"),
        "ColumnsTransformerList": ("children",),
        "ExpressionList": ("children",),
        "Function": (
            *("alias", "arguments", "is_compound_name", "is_lambda_function", "is_operator", "kind", "name"),
            *("is_window_function", "nulls_action", "parameters", "window_definition", "window_name"),
        ),
        "Identifier": ("alias", "children", "name", "name_parts"),
        "InterpolateElement": ("column", "expr"),
        "Literal": ("alias", "value"),
        "OrderByElement": (
            *("collation", "direction", "expression", "fill_from", "fill_step", "fill_to"),
            *("nulls_direction", "nulls_direction_was_explicitly_specified", "with_fill"),
        ),
        "QualifiedAsterisk": ("qualifier", "transformers"),
        "QueryParameter": ("alias", "name", "param_type"),
        "SampleRatio": ("denominator", "numerator"),
        "SelectQuery": (
            *("cte_aliases", "distinct", "group_by", "group_by_all", "group_by_with_cube", "having", "interpolate"),
            *("group_by_with_grouping_sets", "group_by_with_rollup", "group_by_with_totals", "limit_by"),
            *("limit_by_length", "limit_by_offset", "limit_length", "limit_offset", "limit_with_ties", "order_by"),
            *("order_by_all", "prewhere", "qualify", "recursive_with", "select", "settings", "tables", "where"),
            *("window", "with"),
        ),
        "SelectWithUnionQuery": (
            *("format_ast", "list_of_modes", "list_of_selects", "settings_ast", "union_mode"),
            *_OUTPUT,
        ),
        "SetQuery": ("changes",),
        "ShowColumnsQuery": (
            *("case_insensitive_like", "database", "extended", "full", "like", "limit_length", "not_like", "table"),
            *("format_ast", "where_expression"),
            *_OUTPUT,
        ),
        "ShowTablesQuery": (
            *("case_insensitive_like", "databases", "format_ast", "from", "full", "like", "limit_length"),
            *("not_like", "where_expression"),
            *_OUTPUT,
        ),
        "Subquery": ("alias", "children", "cte_name"),
        "TableExpression": (
            *("database_and_table_name", "final", "sample_offset", "sample_size", "subquery", "table_function"),
        ),
        "TableIdentifier": ("alias", "children", "name", "name_parts"),
        "TableJoin": ("kind", "locality", "on_expression", "strictness", "using_expression_list"),
        "TablesInSelectQuery": ("children",),
        "TablesInSelectQueryElement": ("array_join", "table_expression", "table_join"),
        "WindowDefinition": (
            *(
                "frame_begin_offset",
                "frame_begin_preceding",
                "frame_begin_type",
                "frame_end_offset",
                "parent_window_name",
            ),
            *("frame_end_preceding", "frame_end_type", "frame_is_default", "frame_type", "order_by", "partition_by"),
        ),
        "WindowListElement": ("definition", "name"),
        "WithElement": ("aliases", "is_materialized", "name", "subquery"),
    }.items()
}

#: The statements themselves.
STATEMENTS: Final = frozenset({"SelectWithUnionQuery", "ShowColumnsQuery", "ShowTablesQuery"})

#: Statements that `parseQueryToJSON` does not know; allowed word for word, over a view's name.
VIEW_STATEMENTS: Final = ("DESCRIBE TABLE", "EXISTS TABLE", "EXISTS VIEW", "SHOW CREATE TABLE", "SHOW CREATE VIEW")

#: What clients and BI tools ask when they connect. The engine itself leaves out the rows about tables that the
#: reader may not select from.
SYSTEM_TABLES: Final = frozenset(
    {
        *("columns", "data_type_families", "databases", "formats", "functions", "keywords", "numbers", "one"),
        *("settings", "table_engines", "table_functions", "tables", "time_zones"),
    }
)

#: Databases whose names may not lead an identifier; `default` maps file names to tables.
CLOSED_DATABASES: Final = frozenset({"default", "information_schema", "system", "_temporary_and_external_tables"})

#: Table functions that compute their rows from their arguments.
TABLE_FUNCTIONS: Final = frozenset(
    {"generateseries", "generate_series", "null", "numbers", "sqlstandardvalues", "values", "zeros"}
)

#: Categories of `system.functions` whose functions compute from their arguments alone.
FUNCTION_CATEGORIES: Final = frozenset(
    {
        *("Aggregate Functions", "Arithmetic", "Arrays", "Bit", "Bitmap", "Comparison", "Conditional"),
        *("Dates and Times", "Distance", "Encoding", "Financial", "Hash", "IP Address", "JSON", "Logical", "Map"),
        *("Mathematical", "Null", "Random Number", "Rounding", "String", "String Replacement", "String Search"),
        *("String Splitting", "Time Window", "Tuple", "Type Conversion", "URL", "UUID"),
    }
)

#: From other categories ("Other" also holds `file`, `getSetting`, `hasColumnInTable`, `sleep`), or no function at all.
FUNCTIONS_BESIDES: Final = frozenset(
    {
        *("bar", "byteSize", "countDigits", "currentDatabase", "currentSchemas", "currentUser", "exists"),
        *("finalizeAggregation", "formatReadableDecimalSize", "formatReadableQuantity", "formatReadableSize"),
        *("formatReadableTimeDelta", "grouping", "identity", "isConstant", "lambda", "materialize"),
        *("parseReadableSize", "parseTimeDelta", "rowNumberInAllBlocks", "rowNumberInBlock", "runningAccumulate"),
        *("runningDifference", "toColumnTypeName", "toTypeName", "transform", "variantElement", "variantType"),
        *("version", "visibleWidth"),
    }
)

#: In an allowed category, but they take a format's name, and formats may read files.
FUNCTIONS_EXCEPT: Final = frozenset({"chdb", "formatRow", "formatRowNoNewline"})

#: Formats without a schema or template file.
FORMATS: Final = frozenset(
    {
        *("Arrow", "ArrowStream", "CSV", "CSVWithNames", "CSVWithNamesAndTypes", "JSON", "JSONColumns"),
        *("JSONColumnsWithMetadata", "JSONCompact", "JSONCompactColumns", "JSONCompactEachRow"),
        *("JSONCompactEachRowWithNames", "JSONCompactEachRowWithNamesAndTypes", "JSONCompactStrings", "JSONEachRow"),
        *("JSONLines", "JSONObjectEachRow", "JSONStrings", "JSONStringsEachRow", "LineAsString", "Markdown"),
        *("Native", "NDJSON", "Null", "ORC", "Parquet", "Pretty", "PrettyCompact", "PrettyJSONEachRow"),
        *("PrettyJSONLines", "PrettySpace", "RawBLOB", "RowBinary", "RowBinaryWithNames"),
        *("RowBinaryWithNamesAndTypes", "TabSeparated", "TabSeparatedRaw", "TabSeparatedRawWithNames"),
        *("TabSeparatedRawWithNamesAndTypes", "TabSeparatedWithNames", "TabSeparatedWithNamesAndTypes"),
        *("TSV", "TSVRaw", "TSVWithNames", "TSVWithNamesAndTypes", "Values", "Vertical", "XML"),
    }
)

#: Settings that a reader may change at will: how results are written, and how NULLs join.
SETTINGS: Final = frozenset(
    {
        *("cast_string_to_dynamic_use_inference", "date_time_input_format", "date_time_output_format"),
        *("extremes", "format_csv_delimiter", "format_csv_null_representation", "format_tsv_null_representation"),
        *("group_by_use_nulls", "join_use_nulls", "output_format_arrow_compression_method"),
        *("output_format_arrow_string_as_string", "output_format_csv_crlf_end_of_line"),
        *("output_format_decimal_trailing_zeros", "output_format_json_array_of_rows"),
        *("output_format_json_named_tuples_as_objects", "output_format_json_quote_64bit_floats"),
        *("output_format_json_quote_64bit_integers", "output_format_json_quote_decimals"),
        *("output_format_json_quote_denormals", "output_format_native_write_json_as_string"),
        *("output_format_parquet_compression_method", "output_format_parquet_row_group_size"),
        *("output_format_parquet_string_as_string", "output_format_pretty_color", "output_format_pretty_max_rows"),
        *("prefer_column_name_to_alias", "result_overflow_mode", "session_timezone", "union_default_mode"),
    }
)
